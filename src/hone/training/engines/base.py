"""Engine: what a way of spreading a module over processes does, and what all of them share; the table of them.

Does not know what is trained, nor when anything is saved.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs, ProjectConfiguration
from torch import Tensor, nn

from hone.config.parallel import ParallelConfig
from hone.errors import TrainingError
from hone.models.context import Context
from hone.table import Table
from hone.training.engines.moments import gather_moments, weight_names

Precision = Literal["no", "bf16", "fp16"]

ENGINES = Table(
    "engine",
    {
        "ddp": "hone.training.engines.ddp:DdpEngine",
        "fsdp": "hone.training.engines.fsdp:FsdpEngine",
        "zero": "hone.training.engines.zero:ZeroEngine",
    },
    error=TrainingError,
)


@dataclass(frozen=True)
class Hardware:
    """What a run asks of its processes and devices. trackers: accelerate's names; tracker_folder: where their files go."""

    precision: Precision
    use_cpu: bool
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    trackers: tuple[str, ...] = ()
    tracker_folder: str = "."


class Engine(ABC):
    """One process's part of the work of all. `accelerator` knows the processes, the device and the trackers.

    replicas: processes after each other that see the same batches, as each computes a part of what becomes of them.
    forwards_alone: whether a process may go forward and backward more often than the others, but for a step's last micro-batch.
    tries_first: whether gradients may be formed and dropped with nothing left of them.
    context: those of the processes that compute a row of this one together, None where it computes its rows by itself.
    """

    replicas: int = 1
    forwards_alone: bool = False
    tries_first: bool = False

    def __init__(self, hardware: Hardware):
        self.hardware = hardware
        self.accelerator = self.join()
        require_world(self.accelerator)
        self.context = self._cut_rows(hardware.parallel.context_parallel_size)
        found = self.accelerator.device
        self.device = torch.device("cpu") if found.type == "cpu" else found  # accelerate numbers CPUs by process

    def _cut_rows(self, size: int) -> Context | None:
        """The processes that compute a row together: `size` after each other. No process then forms a gradient alone."""
        if size == 1:
            return None
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        if world % size:
            raise TrainingError(
                f"context_parallel_size: {size} does not divide the {world} processes of this run; write a number that does"
            )
        groups = [torch.distributed.new_group(list(range(first, first + size))) for first in range(0, world, size)]
        self.replicas, self.forwards_alone = size, False
        return Context(groups[rank // size], size, rank % size)

    def join(self, *handlers: Any, **more: Any) -> Accelerator:
        """Meet the other processes. handlers, more: what else accelerate is told."""
        hardware, parallel = self.hardware, self.hardware.parallel
        # The settings have it. accelerate would wrap by it, and transformers leave the weights of all processes but one empty.
        os.environ.pop("ACCELERATE_USE_FSDP", None)
        group = InitProcessGroupKwargs(timeout=timedelta(seconds=parallel.ddp_timeout), backend=parallel.ddp_backend)
        AcceleratorState._reset_state(True)  # accelerate keeps it for good: a later run may have another precision or group
        return Accelerator(
            cpu=hardware.use_cpu or not torch.accelerator.is_available(),
            mixed_precision=hardware.precision,
            kwargs_handlers=[group, *handlers],
            log_with=list(hardware.trackers) or None,
            project_config=ProjectConfiguration(project_dir=hardware.tracker_folder, logging_dir=hardware.tracker_folder),
            **more,
        )

    @property
    def held(self) -> torch.device:
        """Where weights lie from when they are read until `wrap` has them; "meta" where another process reads them."""
        return self.device

    @abstractmethod
    def wrap(self, module: nn.Module, optimizer: torch.optim.Optimizer | None) -> tuple[nn.Module, Any]:
        """The module, on the device, spread over the processes and computing in the precision; the optimizer over its weights.

        Raises TrainingError where what comes out is not what was asked for.
        """

    def share(self, module: nn.Module) -> nn.Module:
        """A frozen module beside the one that learns, spread over the processes where this engine spreads weights."""
        return module

    def autocast(self) -> AbstractContextManager[None]:
        """Within, products are taken in the run's precision, as in a wrapped module's own forward."""
        return self.accelerator.autocast()

    @abstractmethod
    def accumulate(self, module: nn.Module, *, last: bool) -> AbstractContextManager[None]:
        """Within, gradients stay in this process unless it is the last micro-batch of the step."""

    def add_up_gradients(self, module: nn.Module) -> None:
        """The mean of the processes' gradients, where `forwards_alone` and no micro-batch was the last."""
        raise AssertionError("gradients that each process formed alone, of an engine that forms them together")

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a scalar loss; over processes of other batches it is a mean."""
        self.accelerator.backward(loss)

    @abstractmethod
    def clip(self, module: nn.Module, max_norm: float) -> Tensor:
        """Scale gradients down to `max_norm` (0: leave them); the norm of all of them before, the same on every process."""

    def step(self, optimizer: Any) -> bool:
        """Change the weights and forget the gradients; False where loss scaling (fp16) left the step out."""
        optimizer.step()
        taken = not self.accelerator.optimizer_step_was_skipped
        optimizer.zero_grad(set_to_none=True)
        return taken

    def scaler_state(self) -> dict[str, Any] | None:
        """State of fp16 loss scaling; None in other precisions."""
        return self.accelerator.scaler.state_dict() if self.accelerator.scaler else None

    def load_scaler_state(self, state: dict[str, Any] | None) -> None:
        """Put back what `scaler_state` gave."""
        if self.accelerator.scaler and state is not None:
            self.accelerator.scaler.load_state_dict(state)

    @abstractmethod
    def whole(self, module: nn.Module) -> AbstractContextManager[None]:
        """Within, on rank 0, the unwrapped `module` holds whole, ordinary weights: all, or of an adapter those that learn.

        All processes enter it; what is written into the weights is not kept.
        """

    @abstractmethod
    def load_whole(self, module: nn.Module, load: Callable[[], None]) -> None:
        """Call `load`, which writes whole weights into the unwrapped `module`, so that all processes have them afterwards.

        All processes call it; it raises on all what `load` raised on one.
        """

    def parts(self, module: nn.Module) -> dict[str, nn.Parameter]:
        """The weights that are saved, by name, as they lie on this process, whole or in shards.

        Raises TrainingError where this engine's are of no form that torch.distributed.checkpoint knows.
        """
        raise TrainingError("save_async: checkpoints in shards are for DDP and FSDP; leave it out")

    def moments(self, module: nn.Module, optimizer: Any) -> dict[str, Any]:
        """As `optimizer_state`, every tensor as it lies on this process."""
        return gather_moments(module, optimizer)

    @abstractmethod
    def optimizer_state(self, module: nn.Module, optimizer: Any) -> dict[str, Any]:
        """Moments by the name of the weight, whole; see `moments`. All processes call it, rank 0's is complete."""

    @abstractmethod
    def load_optimizer_state(self, module: nn.Module, optimizer: Any, state: dict[str, Any]) -> None:
        """Put back what any engine's `optimizer_state` gave, on any number of processes; every process has all of it."""


def named(module: nn.Module, weights: list[nn.Parameter]) -> dict[str, nn.Parameter]:
    """The weights by name, each once."""
    names = weight_names(module)
    return {names[id(weight)]: weight for weight in weights}


def require_world(accelerator: Accelerator) -> None:
    """The number of processes must be the one the launcher started (accelerate can fall back to one unasked)."""
    asked, got = int(os.environ.get("WORLD_SIZE", "1")), accelerator.num_processes
    if asked != got:
        raise TrainingError(f"the launcher started {asked} processes but {got} joined; each would train alone")


def open_engine(hardware: Hardware) -> Engine:
    """The engine that the settings ask for."""
    return ENGINES.load(hardware.parallel.engine)(hardware)
