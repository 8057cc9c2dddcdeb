"""Device: the processes and accelerators of a run. Nobody above it knows which engine spreads the module over them.

Does not know what is trained or why.
"""

from __future__ import annotations

import gc
import resource
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate.tracking import get_available_trackers
from torch import Tensor, nn

from hone.errors import MissingExtra, RunError
from hone.models.context import Context
from hone.training.engines.base import Hardware, Precision, open_engine
from hone.training.engines.moments import load_moments


def require_trackers(names: tuple[str, ...]) -> None:
    """MissingExtra for a tracker whose package is missing: accelerate drops it without a word."""
    held = {tracker.value for tracker in get_available_trackers()}
    for name in names:
        if name not in held:
            raise MissingExtra(name, "track" if name == "tensorboard" else "", f"report_to: {name}")


class Device:
    """One process's view of the run's hardware; also reduces numbers over all processes."""

    def __init__(self, hardware: Hardware):
        self._engine = open_engine(hardware)
        self._accelerator = self._engine.accelerator
        self.device: torch.device = self._engine.device
        self.rank: int = self._accelerator.process_index
        self.world: int = self._accelerator.num_processes
        self.precision: Precision = hardware.precision

    def use_tf32(self, wanted: bool) -> None:
        """Allow or forbid TF32 in float32 products."""
        torch.backends.cuda.matmul.allow_tf32 = wanted

    @property
    def data_rank(self) -> int:
        """Which part of the batches this process has; several processes may have one part together."""
        return self.rank // self._engine.replicas

    @property
    def data_world(self) -> int:
        """How many parts the batches have."""
        return self.world // self._engine.replicas

    @property
    def noise_rank(self) -> int:
        """Whose dropout this process draws: its own, unless several compute the same numbers together."""
        return self.rank if self._engine.context is not None else self.data_rank

    @property
    def context(self) -> Context | None:
        """The processes over which each row of this one is cut; None where it has its rows whole."""
        return self._engine.context

    @property
    def is_main(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    @property
    def held(self) -> torch.device:
        """Where weights lie from when they are read until `prepare` has them; "meta" where another process reads them."""
        return self._engine.held

    def prepare(self, module: nn.Module, optimizer: torch.optim.Optimizer | None) -> tuple[nn.Module, Any]:
        """Move the module to the device, spread it over the processes, compute in the precision; the optimizer alike."""
        return self._engine.wrap(module, optimizer)

    def share(self, module: nn.Module) -> nn.Module:
        """A frozen module beside the one that learns, spread over the processes where that one is in shards."""
        return self._engine.share(module)

    def autocast(self) -> AbstractContextManager[None]:
        """Within, products are taken in the run's precision, as in a prepared module's own forward."""
        return self._engine.autocast()

    def accumulate(self, module: nn.Module, *, last: bool) -> AbstractContextManager[None]:
        """Within, gradients stay in this process unless it is the last micro-batch of the step."""
        return self._engine.accumulate(module, last=last)

    @property
    def forwards_alone(self) -> bool:
        """Whether a process may go forward and backward more often than the others, but for the last micro-batch of a step."""
        return self._engine.forwards_alone

    @property
    def tries_first(self) -> bool:
        """Whether gradients may be formed and dropped."""
        return self._engine.tries_first

    def add_up_gradients(self, module: nn.Module) -> None:
        """The mean of the processes' gradients, where each formed its own and no micro-batch was the last."""
        self._engine.add_up_gradients(module)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a scalar loss; over the processes it is a mean."""
        self._engine.backward(loss)

    def clip(self, module: nn.Module, max_norm: float) -> Tensor:
        """Scale gradients down to `max_norm` (0: leave them); returns the norm they had, a fp32 scalar."""
        return self._engine.clip(module, max_norm)

    def step(self, optimizer: Any) -> bool:
        """Change the weights and forget the gradients; False where loss scaling (fp16) left the step out."""
        return self._engine.step(optimizer)

    def whole(self, module: nn.Module) -> AbstractContextManager[None]:
        """Within, on rank 0, the unwrapped module holds whole weights to be saved; all processes enter it."""
        return self._engine.whole(module)

    def load_whole(self, module: nn.Module, load: Callable[[], None]) -> None:
        """Call `load`, which writes whole weights into the unwrapped module, so that all processes have them."""
        self._engine.load_whole(module, load)

    def parts(self, module: nn.Module) -> dict[str, nn.Parameter]:
        """The weights that are saved, by name, as they lie on this process."""
        return self._engine.parts(module)

    def moments(self, module: nn.Module, optimizer: Any) -> dict[str, Any]:
        """The optimizer's state by the names of the weights, as it lies on this process."""
        return self._engine.moments(module, optimizer)

    def place_moments(self, module: nn.Module, optimizer: Any, state: dict[str, Any]) -> None:
        """Put back what `moments` gave, or tensors that lie as those."""
        load_moments(module, optimizer, state)

    def group_aside(self) -> Any:
        """A group of all processes for messages in host memory beside those of training; None where there is one process."""
        return torch.distributed.new_group(backend="gloo") if self.world > 1 else None

    def optimizer_state(self, module: nn.Module, optimizer: Any) -> dict[str, Any]:
        """The optimizer's state by the names of the weights; all processes call it, and rank 0's is complete."""
        return self._engine.optimizer_state(module, optimizer)

    def load_optimizer_state(self, module: nn.Module, optimizer: Any, state: dict[str, Any]) -> None:
        """Put back what `optimizer_state` gave, of whatever engine and number of processes."""
        self._engine.load_optimizer_state(module, optimizer, state)

    def total(self, values: list[float]) -> list[float]:
        """Sums of a few numbers, exact to fp64, over all processes that have batches of their own."""
        if self.world == 1:
            return values
        dtype = torch.float32 if self.device.type == "mps" else torch.float64
        tensor = torch.tensor(values, dtype=dtype, device=self.device)
        torch.distributed.all_reduce(tensor)
        return (tensor / self._engine.replicas).tolist()

    def gather(self, value: Any) -> list[Any]:
        """Every process's `value` (anything that can be pickled between our own processes), by rank."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(values, value)
        return values

    def gather_data(self, value: Any) -> list[Any]:
        """As `gather`, by data rank: one of those that see the same batches."""
        return self.gather(value)[:: self._engine.replicas]

    def aside(self) -> AbstractContextManager[object]:
        """Within, this thread waits for nothing that other threads have set an accelerator to do."""
        return torch.cuda.stream(torch.cuda.Stream()) if self.device.type == "cuda" else nullcontext()

    def scaler_state(self) -> dict[str, Any] | None:
        """State of fp16 loss scaling; None in other precisions."""
        return self._engine.scaler_state()

    def load_scaler_state(self, state: dict[str, Any] | None) -> None:
        """Put back what `scaler_state` gave."""
        self._engine.load_scaler_state(state)

    def memory_bytes(self) -> int:
        """Peak memory of this process so far: on the accelerator, or resident where there is none."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024

    def free_memory(self) -> None:
        """Give back what objects that are gone held on the accelerator."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def start_trackers(self, project: str, options: dict[str, dict[str, Any]], settings: dict[str, Any]) -> None:
        """Open the trackers: `options` by tracker, and the run's settings (flat: numbers, texts, booleans)."""
        if not self._accelerator.log_with:
            return
        try:
            self._accelerator.init_trackers(project, config=settings, init_kwargs=options)
        except Exception as problem:  # each tracker has errors of its own, and none of them is known here
            names = ", ".join(options)
            raise RunError(
                f"report_to: a tracker ({names}) could not start: {problem}. Mend it, or write report_to: none"
            ) from problem

    def track(self, values: dict[str, float], step: int) -> None:
        """Send numbers to the trackers."""
        self._accelerator.log(values, step=step)

    def close(self) -> None:
        """End trackers and leave the process group, all processes together: torchrun ends the others when one has gone."""
        for tracker in self._accelerator.trackers:
            tracker.finish()
        self._accelerator.trackers = []
        self._accelerator.wait_for_everyone()
        self._accelerator.end_training()
