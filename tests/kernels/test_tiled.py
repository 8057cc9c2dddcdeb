"""Some tokens at a time give what all at once give, forward and backward, whatever learns and whatever is around it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from hone.kernels import lora_linear
from hone.kernels.tiled import tiled

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.02}
"""Of the largest number: a weight's gradient is a sum over tokens, here of the tiles' sums; bfloat16 rounds each to 8 bits."""


class Gated(nn.Module):
    """down(silu(gate(x)) * up(x)), plain or with LoRA on frozen layers."""

    def __init__(self, width: int, wide: int, *, rank: int, dropout: float = 0.0):
        super().__init__()
        shapes = {"gate": (wide, width), "up": (wide, width), "down": (width, wide)}
        self.base = nn.ParameterDict({name: torch.randn(*shape) * 0.3 for name, shape in shapes.items()})
        self.base.requires_grad_(not rank)
        sides = {f"{name}_a": (rank, shape[1]) for name, shape in shapes.items()}
        sides |= {f"{name}_b": (shape[0], rank) for name, shape in shapes.items()}
        self.added = nn.ParameterDict({name: torch.randn(*shape) * 0.3 for name, shape in sides.items()} if rank else {})
        self.dropout, self.calls = dropout, 0

    def layer(self, name: str, x: Tensor) -> Tensor:
        if not self.added:
            return functional.linear(x, self.base[name])
        return lora_linear.linear(x, self.base[name], None, self.added[f"{name}_a"], self.added[f"{name}_b"], 0.5, self.dropout)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.layer("down", functional.silu(self.layer("gate", x)) * self.layer("up", x))


def taken(module: nn.Module, x: Tensor, way: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """The result, and the gradients of x where it has one and of all that learns."""
    inputs = [one for one in (x, *module.parameters()) if one.requires_grad]
    result = way(x)
    slope = torch.randn(result.shape, generator=torch.Generator().manual_seed(1)).to(result.dtype)
    return [result.detach(), *torch.autograd.grad(result, inputs, slope)]


def learning(module: nn.Module) -> list[Tensor]:
    return [weight for weight in module.parameters() if weight.requires_grad]


@pytest.mark.parametrize("needs_x", [True, False])
@pytest.mark.parametrize("rank", [0, 3])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_tiles_give_what_all_tokens_at_once_give(dtype, rank, needs_x):
    """23 tokens in 2 rows of a batch, 5 at a time: the last tile is smaller, and one goes over the end of a row."""
    torch.manual_seed(0)
    module = Gated(7, 19, rank=rank).to(dtype)
    x = torch.randn(2, 23, 7).to(dtype).requires_grad_(needs_x)
    whole = taken(module, x, module)
    parts = taken(module, x, lambda x: tiled(module, x, learning(module), 5))
    assert len(whole) == len(parts) == 1 + needs_x + (6 if rank else 3)
    for one, other in zip(whole, parts, strict=True):
        assert one.dtype == other.dtype
        assert (one.float() - other.float()).abs().max() <= TOLERANCE[dtype] * one.float().abs().max()


def test_autocast_is_the_same_in_the_backward_pass_and_fp32_sums_are_not_rounded():
    torch.manual_seed(0)
    module, x = Gated(8, 16, rank=2), torch.randn(1, 20, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        whole = taken(module, x, module)
        parts = taken(module, x, lambda x: tiled(module, x, learning(module), 6))
    assert parts[0].dtype == torch.bfloat16 and parts[2].dtype == torch.float32
    for one, other in zip(whole, parts, strict=True):
        assert (one.float() - other.float()).abs().max() <= 0.02 * one.float().abs().max()


def test_the_same_numbers_are_dropped_in_both_directions():
    """The gradient is that of the very function that went forward: its numbers stand before the pass, so both can be compared."""
    torch.manual_seed(0)
    module, x = Gated(6, 10, rank=2, dropout=0.5), torch.randn(1, 12, 6, requires_grad=True)

    def by_hand(x: Tensor) -> Tensor:
        return torch.cat([module(part) for part in x.split(5, dim=1)], dim=1)

    torch.manual_seed(3)
    wanted = taken(module, x, by_hand)
    after = torch.rand(1)
    torch.manual_seed(3)
    found = taken(module, x, lambda x: tiled(module, x, learning(module), 5, random=True))
    assert torch.equal(torch.rand(1), after), "the backward pass takes no random numbers of others"
    for one, other in zip(wanted, found, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_a_checkpoint_around_it_computes_it_twice_and_not_three_times():
    """Forward, and once more for the gradients: four tiles each."""
    torch.manual_seed(0)
    module, x = Gated(6, 10, rank=2), torch.randn(1, 20, 6, requires_grad=True)
    plain = taken(module, x, lambda x: x + module(x * 2))

    def layer(x: Tensor) -> Tensor:
        return x + tiled(module, x * 2, learning(module), 5)

    module.calls = 0
    found = taken(module, x, lambda x: checkpoint(layer, x, use_reentrant=False))
    assert module.calls == 4 + 4
    for one, other in zip(plain, found, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_of_a_tile_nothing_is_kept_but_the_input():
    module, x = Gated(6, 10, rank=2), torch.randn(1, 20, 6, requires_grad=True)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one) or one, lambda one: one):
        result = tiled(module, x, learning(module), 5)
    assert [one.data_ptr() for one in kept] == [x.data_ptr()]
    with torch.no_grad():
        assert torch.allclose(tiled(module, x, learning(module), 5), result)
        assert not tiled(module, x, learning(module), 5).requires_grad


def test_what_the_function_does_not_use_has_no_gradient():
    module, x, idle = Gated(6, 10, rank=2), torch.randn(1, 20, 6), nn.Parameter(torch.ones(2))
    tiled(module, x, [*learning(module), idle], 5).sum().backward()
    assert idle.grad is None and module.added["up_b"].grad is not None
