"""Two ways to compute an operation held against each other, forward and backward. No test stands here.

Does not know the operation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1e-2}
"""Of the largest number: sums of a few dozen in fp32 in another order, and 1/128, the last of bf16's 8 bits, rounded twice."""


def outcome(way: Callable[..., object], inputs: Sequence[Tensor]) -> list[Tensor]:
    """Results of `way`, then the gradients of the inputs that need one; the slopes of the results are uneven."""
    copies = [one.detach().clone().requires_grad_(one.requires_grad) for one in inputs]
    made = way(*copies)
    results = made if isinstance(made, tuple) else (made,)
    slopes = [torch.linspace(-1, 2, one.numel()).view(one.shape).to(one.dtype) for one in results]
    torch.autograd.backward(results, slopes)
    assert all((one.grad is not None) == one.requires_grad for one in copies)
    return [*results, *(one.grad for one in copies if one.requires_grad)]


def assert_same(way: Callable[..., object], reference: Callable[..., object], inputs: Sequence[Tensor]) -> None:
    """Same types, same numbers within TOLERANCE, forward and backward."""
    tolerance = max(TOLERANCE[one.dtype] for one in inputs)
    for ours, theirs in zip(outcome(way, inputs), outcome(reference, inputs), strict=True):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        apart = (ours.float() - theirs.float()).abs().max()
        assert apart <= tolerance * theirs.float().abs().max(), apart


def normal(*shape: int, dtype: torch.dtype = torch.float32, needs: bool = True) -> Tensor:
    """Random numbers."""
    return torch.randn(shape).to(dtype).requires_grad_(needs)


def kept(work: Callable[[], object]) -> list[Tensor]:
    """What the backward pass of `work` needs."""
    found: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        work()
    return found
