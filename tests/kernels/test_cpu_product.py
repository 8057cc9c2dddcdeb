"""Large fp32 products by oneDNN are torch's own: 1e-5 of the largest number, sums of some hundred terms in another order."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from hone.kernels import cpu_product


@pytest.fixture(params=[True, False], ids=["onednn", "torch"])
def preferred(request, monkeypatch) -> bool:
    if request.param and not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(cpu_product, "prefers_onednn", lambda: request.param)
    return request.param


@pytest.fixture
def calls(monkeypatch) -> list[tuple[int, ...]]:
    """The shapes that went to torch's own product."""
    own, seen = functional.linear, []

    def noted(left: Tensor, right: Tensor, bias: Tensor | None) -> Tensor:
        seen.append((*left.shape, right.shape[0]))
        return own(left, right, bias)

    monkeypatch.setattr(cpu_product.functional, "linear", noted)
    return seen


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("rows", "wide", "out"), [(331, 257, 203), (64, 512, 512), (1024, 129, 131)])
def test_it_is_the_same_product_of_rows_views_and_turned_weights(rows, wide, out, bias, preferred, calls):
    generator = torch.Generator().manual_seed(rows)
    left, right, added = (torch.randn(*size, generator=generator) for size in ((rows, wide), (out, wide), (out,)))
    exact = left.double() @ right.double().T + (added.double() if bias else 0)
    for one in (left, torch.cat([left, left], 1)[:, :wide], left.T.contiguous().T):
        for other in (right, right.T.contiguous().T):
            found = cpu_product.product(one, other, added if bias else None)
            assert found.dtype == torch.float32 and found.is_contiguous()
            assert float((found - exact).abs().max() / exact.abs().max()) < 1e-5
    assert bool(calls) != preferred


def test_what_is_small_or_no_fp32_is_torch_s_own(preferred, calls):
    large = torch.ones(256, 512)
    for left, right in ((large[:63], large), (large[:64, :128], large[:, :128]), (large.bfloat16(), large.bfloat16())):
        cpu_product.product(left, right)
    assert len(calls) == 3
