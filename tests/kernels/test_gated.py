"""Gated products: numbers by hand, and the fused form against the reference for each activation, type and odd size."""

from __future__ import annotations

import math

import pytest
import torch

from hone.kernels.gated import ACTS, fused, reference
from tests.kernels.compare import assert_same, kept, normal


@pytest.mark.parametrize("form", [reference, fused])
def test_one_times_two_by_hand(form):
    """silu(1) = 1 / (1 + 1/e), gelu(1) = Phi(1)."""
    gate, up = torch.ones(1), torch.full((1,), 2.0)
    assert form(gate, up, "silu").item() == pytest.approx(2 / (1 + math.exp(-1)), abs=1e-6)
    assert form(gate, up, "gelu").item() == pytest.approx(1 + math.erf(0.5**0.5), abs=1e-6)
    bent = math.tanh((2 / math.pi) ** 0.5 * 1.044715)
    assert form(gate, up, "gelu_tanh").item() == pytest.approx(1 + bent, abs=1e-6)


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_forward_and_backward_are_the_references(act, kind):
    torch.manual_seed(0)
    for shape in ((2, 5, 33), (1, 7)):
        inputs = [3 * normal(*shape, dtype=kind).detach(), normal(*shape, dtype=kind)]
        inputs[0].requires_grad_()
        assert_same(lambda g, u: fused(g, u, act), lambda g, u: reference(g, u, act), inputs)
    both = normal(3, 5, 14, dtype=kind)  # as one projection gives them
    assert_same(lambda x: fused(*x.chunk(2, -1), act), lambda x: reference(*x.chunk(2, -1), act), [both])


def test_gate_and_up_are_all_that_is_kept():
    """The plain form keeps the activation too."""
    gate, up = normal(5, 8), normal(5, 8)
    assert {one.data_ptr() for one in kept(lambda: fused(gate, up, "silu"))} == {gate.data_ptr(), up.data_ptr()}
    assert len({one.data_ptr() for one in kept(lambda: reference(gate, up, "silu"))}) == 3
