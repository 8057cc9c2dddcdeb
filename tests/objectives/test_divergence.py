"""Divergences by hand for a teacher (1/2, 1/2) and a student (1/4, 3/4), their limits, and the bucket of the rest."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hone.objectives.divergence import forward_kl, generalised_js, likeliest, reverse_kl

TEACHER, STUDENT = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()


def random_pair(seed: int, num: int = 4, vocab: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.log_softmax(2 * torch.randn(num, vocab, generator=generator, dtype=torch.float64), -1) for _ in range(2))


def test_forward_by_hand():
    """1/2 log(1/2 / 1/4) + 1/2 log(1/2 / 3/4) = 1/2 log 4/3."""
    assert forward_kl(TEACHER, STUDENT).item() == pytest.approx(0.5 * math.log(4 / 3), abs=1e-6)


def test_reverse_by_hand():
    """1/4 log(1/4 / 1/2) + 3/4 log(3/4 / 1/2) = 3/4 log 3 - log 2."""
    assert reverse_kl(TEACHER, STUDENT).item() == pytest.approx(0.75 * math.log(3) - math.log(2), abs=1e-6)


def test_js_by_hand():
    """With beta 1/2 the middle is (3/8, 5/8): half of each one's divergence from it."""
    teacher = 0.5 * math.log(0.5 / 0.375) + 0.5 * math.log(0.5 / 0.625)
    student = 0.25 * math.log(0.25 / 0.375) + 0.75 * math.log(0.75 / 0.625)
    assert generalised_js(TEACHER, STUDENT, 0.5).item() == pytest.approx((teacher + student) / 2, abs=1e-6)


@given(st.integers(0, 1000), st.floats(0.05, 0.95))
def test_none_is_negative_and_all_are_zero_for_equals(seed: int, beta: float):
    teacher, student = random_pair(seed)
    for divergence in (forward_kl, reverse_kl, lambda p, q: generalised_js(p, q, beta)):
        assert (divergence(teacher, student) > 0).all()
        assert divergence(teacher, teacher).abs().max() < 1e-12


@given(st.integers(0, 1000))
def test_js_leads_from_the_forward_to_the_reverse(seed: int):
    """To a hundredth at beta 1e-6: where the teacher is e^10 times surer the limit is still some way off."""
    teacher, student = random_pair(seed)
    for beta, end in ((1e-6, forward_kl), (1 - 1e-6, reverse_kl)):
        near = generalised_js(teacher, student, beta) / min(beta, 1 - beta)
        assert torch.allclose(near, end(teacher, student), rtol=1e-2)


@given(st.integers(0, 1000), st.integers(1, 12))
def test_the_likeliest_and_the_rest_are_a_distribution_and_diverge_less(seed: int, num: int):
    teacher, student = random_pair(seed)
    few, same = likeliest(teacher, student, num)
    assert few.shape[-1] == min(num + 1, 9)
    assert torch.allclose(few.exp().sum(-1), torch.ones(4, dtype=torch.float64))
    assert torch.allclose(same.exp().sum(-1), torch.ones(4, dtype=torch.float64))
    for divergence in (forward_kl, reverse_kl):
        assert (divergence(few, same) <= divergence(teacher, student) + 1e-12).all()


def test_the_likeliest_by_hand():
    """Of (0.6, 0.3, 0.1) the two likeliest and a rest of 0.1; the student has 0.2, 0.3 and a rest of 0.5 there."""
    few, same = likeliest(torch.tensor([[0.1, 0.6, 0.3]]).log(), torch.tensor([[0.5, 0.2, 0.3]]).log(), 2)
    assert few.exp()[0].tolist() == pytest.approx([0.6, 0.3, 0.1], abs=1e-6)
    assert same.exp()[0].tolist() == pytest.approx([0.2, 0.3, 0.5], abs=1e-6)


def test_the_rest_is_learned_too():
    logits = torch.zeros(1, 5, dtype=torch.float64, requires_grad=True)
    teacher = torch.log_softmax(torch.tensor([[3.0, 1.0, 0.0, 0.0, 0.0]], dtype=torch.float64), -1)
    forward_kl(*likeliest(teacher, torch.log_softmax(logits, -1), 1)).sum().backward()
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[0, 1:].tolist() == pytest.approx([logits.grad[0, 1].item()] * 4), "the bucket's words are alike"
