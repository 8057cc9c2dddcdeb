"""RMS norms: numbers by hand, and the fused form against the reference for each kind of family, type and odd size."""

from __future__ import annotations

import pytest
import torch

from hone.kernels.rms_norm import Norm, fused, reference
from tests.kernels.compare import assert_same, kept, normal

LLAMA, GEMMA, GPT_OSS = Norm(1e-5), Norm(1e-6, 1.0, False), Norm(1e-6, 0.0, False)
KINDS = [(one, other) for one in (torch.float32, torch.bfloat16) for other in (torch.float32, torch.bfloat16)]


@pytest.mark.parametrize("form", [reference, fused])
def test_three_and_four_are_divided_by_their_root_mean_square(form):
    """rms(3, 4) = sqrt(12.5); a weight of 2, and an offset of 1 on top."""
    x, weight = torch.tensor([[3.0, 4.0]]), torch.tensor([2.0, 2.0])
    wanted = x / 12.5**0.5
    assert torch.allclose(form(x, weight, Norm(0.0)), 2 * wanted, atol=1e-6)
    assert torch.allclose(form(x, weight, Norm(0.0, 1.0, False)), 3 * wanted, atol=1e-6)
    assert torch.allclose(form(x, None, Norm(0.0)), wanted, atol=1e-6)


@pytest.mark.parametrize("norm", [LLAMA, GEMMA, GPT_OSS])
@pytest.mark.parametrize(("of_x", "of_weight"), KINDS)
def test_forward_and_backward_are_the_references(norm, of_x, of_weight):
    torch.manual_seed(0)
    for shape, trained in (((2, 5, 33), True), ((1, 7), False), ((3, 1, 64), True)):
        weight = normal(shape[-1], dtype=of_weight, needs=trained)
        inputs = [normal(*shape, dtype=of_x), weight]
        assert_same(lambda x, w: fused(x, w, norm), lambda x, w: reference(x, w, norm), inputs)


def test_without_a_weight_it_is_the_references():
    torch.manual_seed(0)
    for kind in (torch.float32, torch.bfloat16):
        assert_same(lambda x: fused(x, None, LLAMA), lambda x: reference(x, None, LLAMA), [normal(2, 5, 33, dtype=kind)])


def test_the_input_and_a_number_a_row_are_all_that_is_kept():
    """The plain form keeps x in fp32 and, of a trained weight, the quotient too: 6 bytes a number, where this keeps 2."""
    x, weight = normal(5, 64, dtype=torch.bfloat16), normal(64, dtype=torch.bfloat16)
    found = kept(lambda: fused(x, weight, LLAMA))
    assert {tuple(one.shape) for one in found} == {(5, 64), (64,), (5, 1)}
    assert any(one.data_ptr() == x.data_ptr() for one in found)
    assert sum(one.numel() for one in kept(lambda: reference(x, weight, LLAMA)) if one.shape == x.shape) >= 2 * x.numel()
