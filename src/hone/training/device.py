"""Device: the processes and accelerators of a run. The only file that knows accelerate.

Does not know what is trained or why.
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, ProjectConfiguration
from torch import Tensor, nn

from hone.errors import MissingExtra, TrainingError

Precision = Literal["no", "bf16", "fp16"]


@dataclass(frozen=True)
class Wiring:
    """How processes are joined. timeout_seconds: how long a rank waits for the others before it gives up."""

    timeout_seconds: int = 1800
    backend: str | None = None
    find_unused_parameters: bool = False
    bucket_cap_mb: int | None = None


def require_trackers(names: tuple[str, ...]) -> None:
    """MissingExtra for a tracker whose package is missing: accelerate drops it without a word."""
    held = {tracker.value for tracker in get_available_trackers()}
    for name in names:
        if name not in held:
            raise MissingExtra(name, "track" if name == "tensorboard" else "", f"report_to: {name}")


class Device:
    """One process's view of the run's hardware; also reduces numbers over all processes."""

    def __init__(
        self,
        *,
        precision: Precision,
        use_cpu: bool,
        wiring: Wiring | None = None,
        trackers: tuple[str, ...] = (),
        tracker_folder: str = ".",
    ):
        wiring = wiring or Wiring()
        cpu = use_cpu or not torch.accelerator.is_available()
        handlers = [
            InitProcessGroupKwargs(timeout=timedelta(seconds=wiring.timeout_seconds), backend=wiring.backend),
            DistributedDataParallelKwargs(
                find_unused_parameters=wiring.find_unused_parameters,
                bucket_cap_mb=wiring.bucket_cap_mb or 25,
                broadcast_buffers=False,  # they are constants, and evaluation may run more forwards on one rank than another
            ),
        ]
        AcceleratorState._reset_state()  # accelerate keeps it for good, and then refuses a later run of another precision
        places = ProjectConfiguration(project_dir=tracker_folder, logging_dir=tracker_folder)
        self._accelerator = Accelerator(
            cpu=cpu, mixed_precision=precision, kwargs_handlers=handlers, log_with=list(trackers) or None, project_config=places
        )
        self._check_world()
        self.device: torch.device = self._accelerator.device
        self.rank: int = self._accelerator.process_index
        self.world: int = self._accelerator.num_processes
        self.precision: Precision = precision

    def _check_world(self) -> None:
        """The number of processes must be the one the launcher started (accelerate can fall back to one unasked)."""
        asked, got = int(os.environ.get("WORLD_SIZE", "1")), self._accelerator.num_processes
        if asked != got:
            raise TrainingError(f"the launcher started {asked} processes but {got} joined; each would train alone")

    def use_tf32(self, wanted: bool) -> None:
        """Allow or forbid TF32 in float32 products."""
        torch.backends.cuda.matmul.allow_tf32 = wanted

    @property
    def is_main(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def prepare(self, module: nn.Module, optimizer: torch.optim.Optimizer | None) -> tuple[nn.Module, Any]:
        """Move the module to the device, wrap it for several processes and mixed precision; wrap the optimizer alike."""
        wrapped = self._accelerator.prepare_model(module)
        if self.world > 1 and not isinstance(wrapped, nn.parallel.DistributedDataParallel):
            raise TrainingError(f"{self.world} processes, but the model is a {type(wrapped).__name__}, not wrapped for them")
        return wrapped, optimizer if optimizer is None else self._accelerator.prepare_optimizer(optimizer)

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        """Within, products are taken in the run's precision, as in a prepared module's own forward."""
        return self._accelerator.autocast()

    @contextlib.contextmanager
    def accumulate(self, module: nn.Module, *, last: bool) -> Iterator[None]:
        """Within, gradients stay in this process unless it is the last micro-batch of the step."""
        with contextlib.nullcontext() if last else self._accelerator.no_sync(module):
            yield

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a scalar loss."""
        self._accelerator.backward(loss)

    def clip(self, module: nn.Module, max_norm: float) -> Tensor:
        """Scale gradients down to `max_norm` (0: leave them); returns the norm they had, a fp32 scalar."""
        trained = [weight for weight in module.parameters() if weight.grad is not None]
        norm = self._accelerator.clip_grad_norm_(trained, max_norm or float("inf"))
        assert norm is not None, "no gradient to clip"
        return norm

    @property
    def step_was_skipped(self) -> bool:
        """Whether loss scaling (fp16) left the last optimizer step out."""
        return self._accelerator.optimizer_step_was_skipped

    def total(self, values: list[float]) -> list[float]:
        """Sums over all processes of a few numbers, exact to fp64."""
        if self.world == 1:
            return values
        dtype = torch.float32 if self.device.type == "mps" else torch.float64
        tensor = torch.tensor(values, dtype=dtype, device=self.device)
        torch.distributed.all_reduce(tensor)
        return tensor.tolist()

    def gather(self, value: Any) -> list[Any]:
        """Every process's `value` (anything that can be pickled between our own processes), by rank."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(values, value)
        return values

    def scaler_state(self) -> dict[str, Any] | None:
        """State of fp16 loss scaling; None in other precisions."""
        return self._accelerator.scaler.state_dict() if self._accelerator.scaler else None

    def load_scaler_state(self, state: dict[str, Any] | None) -> None:
        """Put back what `scaler_state` gave."""
        if self._accelerator.scaler and state is not None:
            self._accelerator.scaler.load_state_dict(state)

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
            raise TrainingError(
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
