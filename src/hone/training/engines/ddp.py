"""One process, or several that each hold the whole module and average their gradients (DDP), through accelerate.

Does not know what is trained.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn

from hone.adapters.apply import saved_weights
from hone.errors import TrainingError
from hone.training.engines.base import Engine, named
from hone.training.engines.moments import gather_moments, load_moments


class DdpEngine(Engine):
    """Every process has every weight and every moment."""

    def join(self, *handlers: Any, **more: Any) -> Accelerator:
        """As of every engine, with what DDP is told."""
        parallel = self.hardware.parallel
        ddp = DistributedDataParallelKwargs(
            find_unused_parameters=bool(parallel.ddp_find_unused_parameters),
            bucket_cap_mb=parallel.ddp_bucket_cap_mb or 25,
            broadcast_buffers=False,  # they are constants, and evaluation may run more forwards on one rank than another
        )
        return super().join(ddp, *handlers, **more)

    def wrap(self, module: nn.Module, optimizer: torch.optim.Optimizer | None) -> tuple[nn.Module, Any]:
        """Move the module to the device, wrap it for several processes and mixed precision; wrap the optimizer alike."""
        wrapped, world = self.accelerator.prepare_model(module), self.accelerator.num_processes
        if world > 1 and not isinstance(wrapped, nn.parallel.DistributedDataParallel):
            raise TrainingError(f"{world} processes, but the model is a {type(wrapped).__name__}, not wrapped for them")
        return wrapped, optimizer if optimizer is None else self.accelerator.prepare_optimizer(optimizer)

    @contextlib.contextmanager
    def accumulate(self, module: nn.Module, *, last: bool) -> Iterator[None]:
        """See Engine."""
        with contextlib.nullcontext() if last else self.accelerator.no_sync(module):
            yield

    def clip(self, module: nn.Module, max_norm: float) -> Tensor:
        """See Engine."""
        trained = [weight for weight in module.parameters() if weight.grad is not None]
        norm = self.accelerator.clip_grad_norm_(trained, max_norm or float("inf"))
        assert norm is not None, "no gradient to clip"
        return norm

    def whole(self, module: nn.Module) -> contextlib.AbstractContextManager[None]:
        """Each process's weights are whole as they are."""
        return contextlib.nullcontext()

    def load_whole(self, module: nn.Module, load: Callable[[], None]) -> None:
        """Each process reads for itself."""
        load()

    def parts(self, module: nn.Module) -> dict[str, nn.Parameter]:
        """See Engine."""
        return named(module, saved_weights(module))

    def optimizer_state(self, module: nn.Module, optimizer: Any) -> dict[str, Any]:
        """See Engine."""
        return gather_moments(module, optimizer)

    def load_optimizer_state(self, module: nn.Module, optimizer: Any, state: dict[str, Any]) -> None:
        """See Engine."""
        load_moments(module, optimizer, state)
