"""Fused operations put into a model in place of what computes the same, module by module; names, classes and weights stay.

Does not know which model it is, nor when an operation pays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from types import MethodType
from typing import Literal

from torch import Tensor, nn

from hone.kernels import fit, gated, rms_norm, rope
from hone.kernels.fit import Forward, Pick
from hone.kernels.passes import Passes, in_triton

Operation = Literal["rms_norm", "rope", "gated"]
OPERATIONS: tuple[Operation, ...] = ("rms_norm", "rope", "gated")
_FILES = {"rms_norm": rms_norm, "rope": rope, "gated": gated}
_SAID = {"rms_norm": "norms", "rope": "rotary codes", "gated": "gated products"}


@dataclass(frozen=True)
class _Place:
    """Modules that look as if they computed `operation`, and what fits them; method: what is replaced."""

    operation: Operation
    looks: Callable[[nn.Module], bool]
    fits: Callable[[nn.Module, Pick], Forward | None]
    method: str = "forward"


_PLACES = (
    _Place("rms_norm", fit.looks_like_norm, fit.fit_norm),
    _Place("gated", fit.looks_gated, fit.fit_gated),
    _Place("gated", fit.looks_like_experts, fit.fit_experts, "_apply_gate"),
    _Place("rope", fit.looks_rotary, fit.fit_rotary),
)


@dataclass
class Attached:
    """fused: modules by operation; left: by class, that look like one and compute something else, or look at their inputs."""

    fused: Counter[Operation] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        done = ", ".join(f"{number} {_SAID[operation]}" for operation, number in self.fused.items()) or "nothing"
        left = ", ".join(f"{number} {name}" for name, number in self.left.items())
        return f"fused: {done}" + (f"; as the family computes them: {left}" if left else "")


def attach(module: nn.Module, operations: Collection[Operation], *, triton: bool = False) -> Attached:
    """Replace the forward of each module inside `module` that computes one of `operations`, where a self-check proves it.

    Modules that somebody has given a forward of their own are left alone. triton: its passes where they take the tensors,
    else those in plain torch. Weights are read when they are used, so they may be frozen, moved and adapted afterwards.
    """
    picks = {operation: _pick(operation, triton) for operation in operations}
    attached, known = Attached(), {}
    for inner in module.modules():
        for place in _PLACES:
            if place.operation in picks and place.method not in vars(inner) and place.looks(inner):
                key = (place.method, place.operation, *_likeness(inner))
                if key not in known:
                    known[key] = place.fits(inner, picks[place.operation])
                _put(inner, place, known[key], attached)
    return attached


def _put(inner: nn.Module, place: _Place, forward: Forward | None, attached: Attached) -> None:
    if forward is None:
        attached.left[type(inner).__name__] += 1
    else:
        setattr(inner, place.method, MethodType(forward, inner))
        attached.fused[place.operation] += 1


def _likeness(module: nn.Module) -> tuple[object, ...]:
    """What a self-check depends on: modules of one likeness are checked once."""
    settings = sorted((name, repr(value)) for name, value in vars(module).items() if isinstance(value, bool | int | float | str))
    settings = [row for row in settings if row[0] != "layer_idx"]
    parts = tuple((name, type(part)) for name, part in module._modules.items())
    shapes = tuple((name, tuple(weight.shape)) for name, weight in module._parameters.items() if weight is not None)
    return type(module), tuple(settings), parts, shapes


def _pick(operation: Operation, triton: bool) -> Pick:
    file = _FILES[operation]
    if not triton:
        return lambda x: file.PLAIN
    passes = in_triton(operation)

    def pick(x: Tensor) -> Passes:
        return passes if file.supports(x.device, x.dtype, x.shape[-1]) else file.PLAIN

    return pick
