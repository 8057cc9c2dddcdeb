"""Weights in 8 bits of floating point: exact to come back, near to what they were, and products of both forms alike."""

from __future__ import annotations

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from hone.kernels import float8
from hone.kernels.float8 import held, linear, restored, rounded, supports, trial, trial_of_rounding

CPU = torch.device("cpu")


def takes_a_scale_for_each_row() -> bool:
    """Whether torch's own product in 8 bits does on a CPU what it does on a GPU; 2.11 takes one scale for all there."""
    ones, scale = torch.ones(16, 16).to(float8.TYPE), torch.ones(16, 1)
    try:
        torch._scaled_mm(ones, ones.T, scale_a=scale, scale_b=scale.T, out_dtype=torch.bfloat16)
    except RuntimeError:
        return False
    return True


by_row = pytest.mark.skipif(not takes_a_scale_for_each_row(), reason="this torch's product in 8 bits has one scale on a CPU")


def drawn(outputs: int = 48, inputs: int = 40) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(outputs, inputs) * torch.logspace(-6, 2, outputs).unsqueeze(1)


def test_weights_are_held_within_a_sixteenth_and_come_back_exactly_in_any_type():
    """e4m3 has 3 bits after the first: half a unit is 2^-4 of a number; below 2^-6 of its range it is 2^-10 of the scale."""
    weight = drawn()
    bits, scale = held(weight)
    assert bits.dtype == torch.uint8 and torch.equal(scale.log2(), scale.log2().round())
    found = restored(bits, scale, torch.float32)
    assert ((found - weight).abs() <= (weight.abs() * 2**-4).maximum(scale.unsqueeze(1) * 2**-10)).all()
    assert torch.equal(restored(bits, scale, torch.bfloat16).float(), found)


def test_a_row_of_zeros_and_the_largest_numbers_are_held():
    weight = torch.stack([torch.zeros(16), torch.full((16,), 3e38), torch.full((16,), 448.0), torch.full((16,), 449.0)])
    found = restored(*held(weight), torch.float32)
    assert torch.equal(found[0], weight[0]) and torch.equal(found[2], weight[2])
    torch.testing.assert_close(found, weight, rtol=2**-4, atol=0)


@pytest.mark.parametrize("biased", [True, False])
def test_a_layer_is_that_of_the_weights_that_are_held_forward_and_backward(biased):
    """The same products in the same type: 1e-6 of fp32 sums."""
    bits, scale = held(drawn())
    bias = torch.randn(48) if biased else None
    x, slope = torch.randn(3, 7, 40, requires_grad=True), torch.randn(3, 7, 48)
    mine = linear(x, bits, scale, bias, torch.float32)
    theirs = torch.nn.functional.linear(x, restored(bits, scale, torch.float32), bias)
    torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)
    gradients = [torch.autograd.grad(y, x, slope)[0] for y in (mine, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-5)


def test_nothing_but_the_weights_is_kept_for_the_backward_pass():
    bits, scale = held(drawn())
    kept = []
    with saved_tensors_hooks(lambda tensor: kept.append(tensor.data_ptr()) or tensor, lambda tensor: tensor):
        linear(torch.randn(5, 40, requires_grad=True), bits, scale, None, torch.float32)
    assert set(kept) == {bits.data_ptr(), scale.data_ptr()}


@by_row
def test_products_in_8_bits_do_the_same_but_for_rounding_what_comes_in():
    """torch multiplies e4m3 on a CPU too, by the same function."""
    assert trial(CPU) == ""


@by_row
def test_the_trial_finds_a_scale_that_is_lost(monkeypatch):
    multiplied = float8.multiplied
    monkeypatch.setattr(
        float8, "multiplied", lambda left, right, scale, *more: multiplied(left, right, torch.ones_like(scale), *more)
    )
    assert trial(CPU).startswith("differ by")


def test_the_trial_finds_a_device_that_cannot(monkeypatch):
    def refuses(*tensors: object, **how: object) -> None:
        raise RuntimeError("no products of Float8_e4m3fn here")

    monkeypatch.setattr(torch, "_scaled_mm", refuses)
    assert trial(CPU) == "fail here (no products of Float8_e4m3fn here)"


def test_a_kernel_that_rounds_otherwise_is_found():
    """Half of a unit too low, scales of another row, and one that no compiler takes."""

    def low(left: torch.Tensor, factor: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        bits, scale = rounded(left, factor)
        return (bits.float() * 0.94).to(float8.TYPE), scale

    def fails(left: torch.Tensor, factor: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        raise ValueError("type fp8e4nv not supported in this architecture\nmore")

    assert trial_of_rounding(rounded, CPU) == ""
    assert trial_of_rounding(low, CPU).startswith("differs in")
    assert trial_of_rounding(lambda *given: (rounded(*given)[0], rounded(*given)[1].roll(1, 0)), CPU).startswith("differs in")
    assert trial_of_rounding(fails, CPU) == "fails here (type fp8e4nv not supported in this architecture)"


@pytest.mark.parametrize(
    ("capability", "dtype", "shape", "wanted"),
    [
        ((8, 9), torch.bfloat16, (64, 32), True),
        ((9, 0), torch.bfloat16, (64, 32), True),
        ((8, 0), torch.bfloat16, (64, 32), False),
        ((9, 0), torch.float16, (64, 32), False),
        ((9, 0), torch.bfloat16, (64, 40), False),
    ],
)
def test_where_there_are_products_in_8_bits(capability, dtype, shape, wanted, monkeypatch):
    monkeypatch.setattr(float8, "capability_of", lambda device: capability)
    assert supports(torch.device("cuda"), dtype, shape) is wanted


@by_row
def test_a_layer_takes_products_in_8_bits_where_the_trial_passes(monkeypatch):
    bits, scale = held(drawn(48, 64))
    x = torch.randn(9, 64).bfloat16()
    plain = linear(x, bits, scale, None, torch.bfloat16)
    monkeypatch.setattr(float8, "capability_of", lambda device: (9, 0))
    float8._passes.cache_clear()
    found = linear(x, bits, scale, None, torch.bfloat16)
    float8._passes.cache_clear()
    assert not torch.equal(found, plain)
    assert float((found - plain).norm() / plain.norm()) < 0.05
