"""A function of each token by itself, computed some tokens at a time in both directions: of all it makes, its input is kept.

Does not know what the function computes, nor which module it is of.

Axes: T token, D width. `*` stands for any leading axes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Function = Callable[[Tensor], Tensor]


def tiled(function: Function, x: Tensor, weights: Sequence[Tensor], rows: int, *, random: bool = False) -> Tensor:
    """function(x), x [*, T, D], of `rows` tokens at a time, with gradients of x and of `weights`, which are all that learn in it.

    In the backward pass it is computed again. random: it draws numbers, the same ones then, but not those of all tokens at once.
    A checkpoint around it, which stops computing again at the last tensor that is kept, does not compute it once more.
    """
    if not (torch.is_grad_enabled() and (x.requires_grad or weights)):
        with torch.no_grad():
            return _forward(function, x, rows)
    work = _Work(function, rows, tuple(weights), x.detach(), random)
    return _Compute.apply(_Keep.apply(x, work, *weights), work)


@dataclass
class _Work:
    """What both nodes of the graph share. x: until it was computed from; gradient: of the result, on its way between them."""

    function: Function
    rows: int
    weights: tuple[Tensor, ...]
    x: Tensor | None
    random: bool
    states: tuple[Tensor, ...] = ()
    gradient: Tensor | None = None

    def __post_init__(self) -> None:
        assert self.x is not None
        kind = self.x.device.type
        self.kind, self.mixes, self.dtype = kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)

    def autocast(self) -> torch.autocast:
        """As it was around the forward pass. Weights that it turned are not kept: those of a pass without gradient have none."""
        return torch.autocast(self.kind, self.dtype, enabled=self.mixes, cache_enabled=False)

    def remember(self, device: torch.device) -> None:
        """Where the random numbers stand before the forward pass."""
        if self.random:
            self.states = (torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else []))

    @contextmanager
    def again(self, device: torch.device) -> Iterator[None]:
        """The same random numbers within, and those that were next afterwards."""
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices) if self.random else nullcontext():
            if self.random:
                torch.set_rng_state(self.states[0])
            if self.random and devices:
                torch.cuda.set_rng_state(self.states[1], device)
            yield


def _parts(x: Tensor, rows: int) -> tuple[Tensor, ...]:
    """[1, rows, D] each, the last with fewer."""
    return x.reshape(1, -1, x.shape[-1]).split(rows, dim=1)


def _forward(function: Function, x: Tensor, rows: int) -> Tensor:
    whole, place = None, 0
    for part in _parts(x, rows):
        result = function(part)
        if whole is None:
            whole = result.new_empty(*x.shape[:-1], result.shape[-1])
        whole.view(1, -1, whole.shape[-1])[:, place : place + part.shape[1]] = result
        place += part.shape[1]
        del result
    assert whole is not None, "there is a token"
    return whole


class _Keep(torch.autograd.Function):
    """The node that has the input, and gives the gradients; what it gives forward has no numbers."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, work: _Work, *weights: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        ctx.work = work
        return x.new_empty(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _nothing: Tensor) -> tuple[Tensor | None, ...]:
        (x,), work = ctx.saved_tensors, ctx.work
        of_result, work.gradient = work.gradient, None
        of_x, of_weights = _backward(x, of_result, work, ctx.needs_input_grad[0])
        return of_x, None, *of_weights


class _Compute(torch.autograd.Function):
    """The node that has the result; a checkpoint that computes again has all it needs before it comes here."""

    @staticmethod
    def forward(ctx: Any, _nothing: Tensor, work: _Work) -> Tensor:
        ctx.work, x = work, work.x
        work.x = None
        work.remember(x.device)
        with work.autocast():
            return _forward(work.function, x, work.rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        ctx.work.gradient = gradient
        return gradient.new_empty(0), None


def _backward(x: Tensor, of_result: Tensor, work: _Work, needs_x: bool) -> tuple[Tensor | None, list[Tensor | None]]:
    """Of x and of the weights, which are summed up in fp32 at least."""
    of_x, place = (torch.empty_like(x, memory_format=torch.contiguous_format) if needs_x else None), 0
    sums: list[Tensor | None] = [None] * len(work.weights)
    with torch.enable_grad(), work.again(x.device), work.autocast():
        for part, slope in zip(_parts(x, work.rows), _parts(of_result, work.rows), strict=True):
            given = part.detach().requires_grad_(needs_x)
            result = work.function(given)
            inputs = [*([given] if needs_x else []), *work.weights]
            found = list(torch.autograd.grad(result, inputs, slope.to(result.dtype), allow_unused=True))
            del result
            if of_x is not None:
                of_x.view(1, -1, x.shape[-1])[:, place : place + part.shape[1]] = found.pop(0)
            sums = [_added(one, new) for one, new in zip(sums, found, strict=True)]
            place += part.shape[1]
    return of_x, [one if one is None else one.to(weight.dtype) for one, weight in zip(sums, work.weights, strict=True)]


def _added(one: Tensor | None, new: Tensor | None) -> Tensor | None:
    if one is None or new is None:
        return new if one is None else one
    wide = torch.promote_types(one.dtype, torch.float32)
    return one.to(wide).add_(new)
