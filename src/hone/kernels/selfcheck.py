"""Whether another way to compute something gives the same on small inputs, forward and backward: in numbers and in types.

Does not know what is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import _disable_current_modes

Way = Callable[..., "Tensor | tuple[Tensor, ...]"]

FINE, COARSE = torch.float32, torch.bfloat16
_TOLERANCE = {FINE: 1e-5, COARSE: 0.03}
"""Of the largest number. bf16 has 8 bits, so roundings in another order differ by up to some 1/128; a constant that is left out
or another activation differs by more in fp32."""


@contextmanager
def undisturbed() -> Iterator[None]:
    """Within, a trial has numbers and gradients of its own, whatever it interrupts: a rehearsal in tensors without memory,

    a checkpoint, which would count what the trial keeps among what its layer keeps, inference.
    """
    with _disable_current_modes(), saved_tensors_hooks(_as_it_is, _as_it_is), torch.inference_mode(False), torch.enable_grad():
        yield


def is_rehearsed(tensor: Tensor) -> bool:
    """Whether it has a shape and no numbers, as those of a plan's rehearsal."""
    return isinstance(tensor, FakeTensor)


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


@dataclass(frozen=True)
class Observed:
    """What `way` makes of `inputs`: results, then the gradients of those that need one."""

    inputs: Sequence[Tensor]
    made: list[Tensor]

    def same(self, way: Way, *, rounds_alike: bool = False) -> bool:
        """Whether `way` makes the same of them; False too where it cannot take them.

        rounds_alike: a result in bf16 must be the same to the last bit but for one in ten, which tells orders of rounding apart.
        """
        other = observe(way, self.inputs)
        tolerance = _TOLERANCE[COARSE if any(one.dtype == COARSE for one in self.inputs) else FINE]
        if other is None or len(other.made) != len(self.made):
            return False
        if not all(_near(*pair, tolerance) for pair in zip(self.made, other.made, strict=True)):
            return False
        alike = (self.made[0] == other.made[0]).float().mean().item()
        return not rounds_alike or self.inputs[0].dtype != COARSE or alike > 0.9


def drawn(generator: torch.Generator, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Random numbers that need a gradient, from a generator on the CPU, so that torch's own is left as it is.

    A module on "meta" is a draft; what it computes is seen on the CPU.
    """
    here = torch.device("cpu") if device.type == "meta" else device
    return torch.randn(tuple(shape), generator=generator).to(here, dtype).requires_grad_()


@torch.enable_grad()
def observe(way: Way, inputs: Sequence[Tensor]) -> Observed | None:
    """What `way` makes of the inputs, learned with uneven weights, so that a permutation shows; None where it cannot."""
    copies = [one.detach().clone().requires_grad_(one.requires_grad) for one in inputs]
    try:
        made = way(*copies)
        results = list(made) if isinstance(made, tuple) else [made]
        loss = sum((one.flatten().float() * torch.linspace(-1, 2, one.numel(), device=one.device)).sum() for one in results)
        needed = [one for one in copies if one.requires_grad]
        slopes = torch.autograd.grad(loss, needed, allow_unused=True)
    except (
        RuntimeError,
        TypeError,
        ValueError,
        IndexError,
        AttributeError,
    ):  # raised of inputs that do not fit
        return None
    slopes = [torch.zeros_like(one) if slope is None else slope for one, slope in zip(needed, slopes, strict=True)]
    return Observed(inputs, [one.detach() for one in results] + slopes)


def all_observed(way: Way, inputs: Iterable[Sequence[Tensor]]) -> list[Observed]:
    """Of each of the inputs that it can take."""
    return [found for some in inputs if (found := observe(way, some)) is not None]


def _near(theirs: Tensor, ours: Tensor, tolerance: float) -> bool:
    if theirs.shape != ours.shape or theirs.dtype != ours.dtype:
        return False
    apart = (theirs.float() - ours.float()).abs().max()
    return bool(apart <= tolerance * theirs.float().abs().max().clamp(min=1e-3))
