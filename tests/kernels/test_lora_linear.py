"""The fused LoRA layer against its plain reference: values, gradients, dropped inputs, types, and what is kept and computed.

Tolerances: fp64 exact to gradcheck's 1e-6; fp32 1e-5 of the largest number, sums of some hundred terms in another order; bf16 two
units of 2^-8 of it.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from hone.kernels import lora_linear

SHAPES = [(1, 1, 1, 1, 1), (2, 3, 5, 4, 2), (1, 37, 65, 33, 8), (3, 11, 16, 48, 64)]
"""Rows, tokens, width of the input and of the output, rank."""


def drawn(shape, *, bias: bool = True, dtype=torch.float32, weights=None):
    """x, weight, bias, down, up; x, down and up with gradient. weights: the type of down and up."""
    rows, tokens, wide, out, rank = shape
    generator = torch.Generator().manual_seed(sum(shape))

    def one(*size: int, kind=dtype) -> Tensor:
        return torch.randn(*size, generator=generator).to(kind)

    x, weight = one(rows, tokens, wide), one(out, wide)
    down, up = (one(*size, kind=weights or dtype) for size in ((rank, wide), (out, rank)))
    return x.requires_grad_(), weight, one(out) if bias else None, down.requires_grad_(), up.requires_grad_()


def passed(form, parts, scaling: float = 1.7, dropout: float = 0.0) -> list[Tensor]:
    """The result, and the gradients of x, down and up, for random slopes."""
    torch.manual_seed(5)
    result = form(*parts, scaling, dropout)
    slope = torch.randn(result.shape, generator=torch.Generator().manual_seed(9)).to(result.dtype)
    return [result.detach(), *torch.autograd.grad(result, (parts[0], *parts[3:]), slope)]


def beside(x, weight, bias, down, up, scaling, dropout):
    return lora_linear.beside(x, torch.nn.functional.linear(x, weight, bias), down, up, scaling, dropout)


def gap(one: Tensor, other: Tensor) -> float:
    """Largest difference, as a part of the largest number."""
    return float((one.double() - other.double()).abs().max() / other.double().abs().max())


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("form", [lora_linear.linear, beside])
def test_gradients_are_those_of_the_formula(form, dropout):
    x, weight, bias, down, up = drawn(SHAPES[1], dtype=torch.float64)

    def function(x: Tensor, down: Tensor, up: Tensor) -> Tensor:
        torch.manual_seed(5)
        return form(x, weight, bias, down, up, 1.7, dropout)

    assert torch.autograd.gradcheck(function, (x, down, up))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("form", [lora_linear.linear, beside])
@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_the_reference(shape, form, bias):
    parts = drawn(shape, bias=bias)
    for new, old in zip(passed(form, parts), passed(lora_linear.reference, parts), strict=True):
        assert gap(new, old) < 1e-5


@pytest.mark.parametrize("form", [lora_linear.linear, beside])
def test_the_same_inputs_are_dropped_and_as_many_random_numbers_taken(form):
    parts = drawn(SHAPES[2])
    mine, state = passed(form, parts, dropout=0.3), torch.get_rng_state()
    plain = passed(lora_linear.reference, parts, dropout=0.3)
    assert torch.equal(state, torch.get_rng_state())
    for new, old in zip(mine, plain, strict=True):
        assert gap(new, old) < 1e-5


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("form", [lora_linear.linear, beside])
def test_mixed_precision(form, dropout):
    """Weights that learn in fp32, products in bf16: no further from the exact result than the plain layers are."""
    parts = drawn(SHAPES[3], dtype=torch.bfloat16, weights=torch.float32)
    wide = [None if part is None else part.detach().float().requires_grad_(part.requires_grad) for part in parts]
    exact = passed(lora_linear.reference, wide, dropout=dropout)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mine, plain = passed(form, parts, dropout=dropout), passed(lora_linear.reference, parts, dropout=dropout)
    assert [tensor.dtype for tensor in mine] == [torch.bfloat16, torch.bfloat16, torch.float32, torch.float32]
    for new, old, true in zip(mine, plain, exact, strict=True):
        assert gap(new, true) < max(2**-7, 1.2 * gap(old, true))


def test_types_that_differ_have_no_product_type():
    x, weight, _, down, up = drawn(SHAPES[1], dtype=torch.bfloat16, weights=torch.float32)
    assert lora_linear.product_dtype(x, weight, down, up) is None
    assert lora_linear.product_dtype(x, weight) is torch.bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert lora_linear.product_dtype(x.float(), weight, down, up) is torch.bfloat16


@pytest.mark.parametrize(("dtype", "dropout"), [(torch.float32, 0.0), (torch.bfloat16, 0.0), (torch.float32, 0.3)])
def test_x_is_kept_once_and_never_copied(dtype, dropout):
    """Two layers of one x keep it, R numbers a token, and a byte for each input where some are dropped."""
    (x, weight, bias, down, up), kept = drawn(SHAPES[3], dtype=dtype, weights=torch.float32), {}
    frozen = [tensor.untyped_storage().data_ptr() for tensor in (weight, bias, down, up)]

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype != torch.float32),
    ):
        results = [lora_linear.linear(x, weight, bias, down, up, 1.0, dropout) for _ in range(2)]
    assert x.untyped_storage().data_ptr() in kept and len(results) == 2
    tokens, rank = x.shape[0] * x.shape[1], down.shape[0]
    casts = 0 if dtype == torch.float32 else (down.numel() + up.numel()) * 2
    more = rank * tokens * x.element_size() + casts + (x.numel() if dropout else 0)
    sizes = sum(size for place, size in kept.items() if place not in frozen)
    assert sizes == x.numel() * x.element_size() + 2 * more


def test_a_checkpoint_that_keeps_products_alone_gives_the_same_gradients():
    def choose(_context, operation, *_arguments, **_rest) -> CheckpointPolicy:
        kept = operation.overloadpacket.__name__ in ("mm", "addmm")
        return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE

    def again(*parts) -> Tensor:
        contexts = partial(create_selective_checkpoint_contexts, choose)
        return checkpoint(lora_linear.linear, *parts, use_reentrant=False, context_fn=contexts)

    for bias in (True, False):
        parts = drawn(SHAPES[2], bias=bias)
        for new, old in zip(passed(again, parts, dropout=0.3), passed(lora_linear.linear, parts, dropout=0.3), strict=True):
            assert gap(new, old) < 1e-6


class Products(TorchDispatchMode):
    """The shapes of what matrix products made."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in ("mm", "addmm", "addmm_"):
            self.shapes.append(tuple(result.shape))
        return result


@pytest.mark.parametrize("needs_x", [True, False])
def test_a_frozen_weight_and_an_input_that_needs_none_cost_no_product(needs_x):
    """T 37, D 65, O 33, R 8: forward R x T, then T x O twice; backward R x T, the two gradients, and T x D twice or never."""
    x, *others = drawn(SHAPES[2], bias=False)
    with Products() as products:
        lora_linear.linear(x.detach().requires_grad_(needs_x), *others, 1.0).sum().backward()
    expected = [(8, 37), (37, 33), (37, 33), (8, 37), (8, 33), (8, 65)]
    assert products.shapes == expected + [(37, 65), (37, 65)] * needs_x


def test_a_weight_that_learns_is_not_for_this():
    x, weight, bias, down, up = drawn(SHAPES[1])
    with pytest.raises(AssertionError, match="frozen"):
        lora_linear.linear(x, weight.requires_grad_(), bias, down, up, 1.0)
