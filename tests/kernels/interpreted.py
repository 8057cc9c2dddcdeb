"""The passes in Triton against the references, in Triton's interpreter: test_triton.py runs this file in a process of its own.

Triton decides when it is imported whether it interprets, and other tests import it too.
"""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from triton.runtime import interpreter

from hone.kernels import float8, gated, rms_norm, rope
from hone.kernels.passes import Passes, in_triton, rounding_in_triton
from tests.kernels.compare import assert_same, normal

FINE, COARSE = torch.float32, torch.bfloat16

_patch = interpreter._patch_lang_tensor


def _patched(tensor, scope):
    """numpy 2.5 makes no number of an array of one, which Triton 3.6's interpreter asks for at a loop's bounds (2026-11)."""
    _patch(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))


interpreter._patch_lang_tensor = _patched


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


def test_rows_are_rounded_to_8_bits_as_torch_rounds_them():
    """Of numbers that e4m3 has: the interpreter of Triton 3.6 loses a carry (124.3 becomes 64), so others say nothing here."""
    bits = torch.randint(256, (5, 33), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    bits[(bits & 127) == 127] = 0  # NaN
    bits[:, 7] = 126  # 448, so that a row's scale is a power of two
    factor = torch.exp2(torch.arange(33) % 5 - 2.0)
    held = bits.view(float8.TYPE).float() * torch.exp2(torch.arange(-2.0, 3.0)).unsqueeze(1)
    for given, left in ((None, held), (factor, held / factor)):
        wanted, found = float8.rounded(left.to(COARSE), given), rounding_in_triton()(left.to(COARSE), given)
        assert torch.equal(found[0].float(), bits.view(float8.TYPE).float()) and torch.equal(found[0].float(), wanted[0].float())
        assert torch.equal(found[1], wanted[1])
    assert not rounding_in_triton()(torch.zeros(2, 16, dtype=COARSE), None)[0].view(torch.uint8).any()


def test_heads_that_lie_far_apart_are_found():
    """At 2^31 numbers and more from the first; of the 4 GiB that are spanned only what is read is there."""
    torch.manual_seed(0)
    apart, turn = 2**30, rope.Rope()
    q = torch.empty(2 * apart + 64, dtype=COARSE).as_strided((1, 3, 2, 8), (0, apart, 8, 1))
    small = normal(1, 3, 2, 8, dtype=COARSE, needs=False)
    q.copy_(small)
    angles = [normal(1, 2, 8, dtype=COARSE, needs=False) for _ in range(2)]
    found = in_triton("rope").forward(q, q, *angles, turn)
    for one, other in zip(found, rope.reference(small, small, *angles, turn), strict=True):
        torch.testing.assert_close(one, other, rtol=2e-2, atol=2e-2)


def test_nothing_is_launched_of_tensors_without_memory():
    """A plan rehearses the passes: on a device, a kernel that was launched of them would end the process."""
    norm, turn = rms_norm.Norm(1e-5), rope.Rope()
    with FakeTensorMode():
        x, weight, heads, angles = torch.empty(5, 32), torch.empty(32), torch.empty(1, 2, 5, 8), torch.empty(1, 5, 8)
        y, rstd = in_triton("rms_norm").forward(x, weight, norm)
        of_x, of_weight = in_triton("rms_norm").backward(y, x, weight, rstd, norm, True)
        made = [y, of_x, in_triton("gated").forward(x, x, "silu"), *in_triton("gated").backward(x, x, x, "silu")]
        turned = in_triton("rope").forward(heads, heads, angles, angles, turn)
    assert all(one.shape == x.shape for one in made) and of_weight.shape == weight.shape
    assert all(one.shape == heads.shape for one in turned)
