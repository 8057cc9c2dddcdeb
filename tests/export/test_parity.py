"""The figures of parity in closed form, and that each kind of wrong model fails."""

from __future__ import annotations

import math

import pytest
import torch

from hone.errors import ExportError
from hone.export.parity import TOLERANCES, Parity, compare

DRAW = torch.Generator().manual_seed(0)
BASE = [torch.randn(50, 40, generator=DRAW)]
TRAINED = [BASE[0] + 0.01 * torch.randn(50, 40, generator=DRAW)]


def test_the_same_logits_pass_with_nothing_to_tell() -> None:
    parity = compare(TRAINED, TRAINED, dtype="F32", base=BASE)
    assert (parity.max_difference, parity.divergence, parity.top1) == (0.0, 0.0, 1.0)
    assert parity.passed and parity.carried == pytest.approx(1.0, abs=1e-6) and parity.effect > 0


def test_divergence_and_first_choice_by_hand() -> None:
    """Two next tokens: (1/2, 1/2) against (3/4, 1/4); then a token where the first choice differs."""
    one = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    other = torch.tensor([[math.log(3.0), 0.0], [0.0, 1.0]])
    parity = compare([one], [other], dtype="F32")
    flipped = math.tanh(0.5)
    assert parity.divergence == pytest.approx((0.5 * math.log(4 / 3) + flipped) / 2, rel=1e-5)
    assert parity.top1 == 0.5 and parity.num_tokens == 2
    assert not parity.passed and "FAILED" in str(parity)


def test_the_bare_base_fails_although_it_is_near() -> None:
    parity = compare(TRAINED, BASE, dtype="BF16", base=BASE)
    assert parity.divergence < TOLERANCES["BF16"].divergence
    assert parity.carried == pytest.approx(0.0, abs=1e-6) and not parity.passed


@pytest.mark.parametrize("times", [0.5, 2.0])
def test_a_wrong_scale_fails(times) -> None:
    wrong = [BASE[0] + times * (TRAINED[0] - BASE[0])]
    parity = compare(TRAINED, wrong, dtype="BF16", base=BASE)
    assert parity.carried == pytest.approx(times, rel=1e-4) and not parity.passed


def test_noise_larger_than_the_adapter_does_not_hide_that_it_is_there() -> None:
    noisy = [TRAINED[0] + 0.01 * torch.randn(50, 40, generator=DRAW)]
    assert compare(TRAINED, noisy, dtype="BF16", base=BASE).carried == pytest.approx(1.0, abs=0.1)


def test_an_adapter_without_effect_is_not_divided_by() -> None:
    parity = compare(BASE, BASE, dtype="F32", base=BASE)
    assert parity.carried is None and parity.effect is None and parity.passed


def test_not_a_number_fails() -> None:
    broken = [torch.full_like(BASE[0], float("nan"))]
    assert not compare(BASE, broken, dtype="BF16").passed


def test_another_vocabulary_is_an_error() -> None:
    with pytest.raises(ExportError, match="vocabularies differ"):
        compare(BASE, [BASE[0][:, :30]], dtype="F32")


def test_report_has_figures_and_verdict() -> None:
    saved = Parity(0.1, 1.0, 0.0, 1.0, 5, "F32").as_dict()
    assert saved["passed"] is False and saved["max_difference"] == 0.1 and saved["tolerance"]["difference"] == 1e-3
