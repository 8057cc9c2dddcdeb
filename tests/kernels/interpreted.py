"""The passes in Triton against the references, in Triton's interpreter: test_triton.py runs this file in a process of its own.

Triton decides when it is imported whether it interprets, and other tests import it too.
"""

from __future__ import annotations

import pytest
import torch

from hone.kernels import gated, rms_norm, rope
from hone.kernels.passes import Passes, in_triton
from tests.kernels.compare import assert_same, normal

FINE, COARSE = torch.float32, torch.bfloat16


@pytest.mark.parametrize(
    ("norm", "of_x", "of_weight", "trained", "width"),
    [
        (rms_norm.Norm(1e-5), FINE, FINE, True, 33),
        (rms_norm.Norm(1e-5), COARSE, FINE, True, 7),
        (rms_norm.Norm(1e-5), COARSE, COARSE, False, 64),
        (rms_norm.Norm(1e-6, 1.0, False), COARSE, COARSE, True, 33),
        (rms_norm.Norm(1e-6, 0.0, False), FINE, COARSE, False, 33),
    ],
)
def test_norms(norm, of_x, of_weight, trained, width):
    torch.manual_seed(0)
    passes = in_triton("rms_norm")
    inputs = [normal(2, 3, width, dtype=of_x), normal(width, dtype=of_weight, needs=trained)]
    assert_same(lambda x, w: rms_norm.fused(x, w, norm, passes), lambda x, w: rms_norm.reference(x, w, norm), inputs)


def test_a_norm_without_a_weight():
    norm, passes = rms_norm.Norm(1e-5), in_triton("rms_norm")
    assert_same(lambda x: rms_norm.fused(x, None, norm, passes), lambda x: rms_norm.reference(x, None, norm), [normal(3, 33)])


@pytest.mark.parametrize("act", gated.ACTS)
@pytest.mark.parametrize("kind", [FINE, COARSE])
def test_gated_products(act, kind):
    torch.manual_seed(0)
    passes = in_triton("gated")
    both = normal(2, 3, 14, dtype=kind)
    assert_same(lambda x: gated.fused(*x.chunk(2, -1), act, passes), lambda x: gated.reference(*x.chunk(2, -1), act), [both])


@pytest.mark.parametrize(
    ("turn", "head", "angle", "turned", "rows"),
    [
        (rope.Rope(), FINE, FINE, 6, 2),
        (rope.Rope(), COARSE, COARSE, 4, 1),
        (rope.Rope(pairs=True), COARSE, FINE, 6, 1),
        (rope.Rope(True, True), COARSE, COARSE, 4, 2),
    ],
)
def test_rotary_codes(turn, head, angle, turned, rows):
    torch.manual_seed(0)
    passes = in_triton("rope")
    angles = [normal(rows, 3, turned, dtype=angle, needs=False) for _ in range(2)]
    inputs = [normal(2, 3, 3, 6, dtype=head), normal(2, 3, 1, 6, dtype=head), *angles]

    def call(q, k, cos, sin, passes: Passes | None = None):
        heads = (q.transpose(1, 2), k.transpose(1, 2))
        return rope.reference(*heads, cos, sin, turn) if passes is None else rope.fused(*heads, cos, sin, turn, passes)

    assert_same(lambda *given: call(*given, passes=passes), call, inputs)
