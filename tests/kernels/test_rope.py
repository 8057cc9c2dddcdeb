"""Rotary codes: numbers by hand, and the fused form against the reference for each layout, type and odd size."""

from __future__ import annotations

import itertools

import pytest
import torch

from hone.kernels.rope import Rope, fused, reference
from tests.kernels.compare import assert_same, kept, normal

ROPES = [Rope(pairs, in_fp32) for pairs in (False, True) for in_fp32 in (False, True)]
KINDS = [(torch.float32, torch.float32), (torch.bfloat16, torch.bfloat16), (torch.bfloat16, torch.float32)]


@pytest.mark.parametrize("form", [reference, fused])
def test_a_quarter_turn_by_hand(form):
    """cos 0, sin 1: (a, b) -> (-b, a), of halves or of neighbours; what is not turned stays."""
    head = torch.tensor([1.0, 2.0, 3.0, 4.0, 9.0]).view(1, 1, 1, 5)
    cos, sin = torch.zeros(1, 1, 4), torch.ones(1, 1, 4)
    assert form(head, head, cos, sin, Rope())[0].flatten().tolist() == [-3, -4, 1, 2, 9]
    assert form(head, head, cos, sin, Rope(pairs=True))[1].flatten().tolist() == [-2, 1, -4, 3, 9]


@pytest.mark.parametrize("rope", ROPES)
@pytest.mark.parametrize(("head", "angle"), KINDS)
def test_forward_and_backward_are_the_references(rope, head, angle):
    """Two rows with angles of their own, or of one for both; heads in the order that a projection gives them."""
    torch.manual_seed(0)
    for turned, rows in itertools.product((8, 4), (1, 2)):
        angles = [normal(rows, 5, turned, dtype=angle, needs=False) for _ in range(2)]
        inputs = [normal(2, 5, 3, 8, dtype=head), normal(2, 5, 1, 8, dtype=head), *angles]

        def call(form, q, k, cos, sin):
            return form(q.transpose(1, 2), k.transpose(1, 2), cos, sin, rope)

        assert_same(lambda *given: call(fused, *given), lambda *given: call(reference, *given), inputs)


def test_the_angles_are_all_that_is_kept():
    q, k, angles = normal(1, 3, 5, 8), normal(1, 1, 5, 8), torch.randn(1, 5, 8)
    assert {one.data_ptr() for one in kept(lambda: fused(q, k, angles, angles, Rope()))} == {angles.data_ptr()}
