"""The surrogate losses against numbers worked out by hand, value and gradient."""

from __future__ import annotations

import math

import pytest
import torch

from hone.objectives.surrogate import (
    clipped,
    corrected,
    divergence,
    importance,
    items,
    log_ratio,
    sequence_means,
    token_weights,
)

EXACT = {"rtol": 1e-6, "atol": 1e-7}  # fp32's own roundings
SEQUENCE = torch.tensor([0, 0, 0, 1])


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "flows"),
    [
        (1.0, 2.0, -2.0, True),
        (1.25, 2.0, -2.5, True),
        (1.5, 2.0, -2.6, False),  # above 1 + 0.3: -1.3 x 2
        (0.5, 2.0, -1.0, True),  # below, but the policy should come back up
        (0.5, -2.0, 1.6, False),  # below 1 - 0.2: 0.8 x 2
        (1.5, -2.0, 3.0, True),
    ],
)
def test_clipping(ratio: float, advantage: float, loss: float, flows: bool) -> None:
    log_ratio_N = torch.tensor([math.log(ratio)], requires_grad=True)
    found = clipped(log_ratio_N, torch.tensor([advantage]), low=0.2, high=0.3)
    torch.testing.assert_close(found.loss_N, torch.tensor([loss]), **EXACT)
    found.loss_N.sum().backward()
    expected = -ratio * advantage if flows else 0.0
    torch.testing.assert_close(log_ratio_N.grad, torch.tensor([expected]), **EXACT)
    assert bool(found.low_N | found.high_N) is not flows
    assert bool(found.high_N) is (not flows and advantage > 0)


def test_the_ratio_of_tokens_and_of_sequences() -> None:
    """Differences 0.3, 0.0, -0.6 of one answer and 0.2 of another: means -0.1 and 0.2."""
    new, old = torch.tensor([-1.0, -2.0, -3.0, -1.0]), torch.tensor([-1.3, -2.0, -2.4, -1.2])
    torch.testing.assert_close(log_ratio(new, old, SEQUENCE, 2, "token"), torch.tensor([0.3, 0.0, -0.6, 0.2]), **EXACT)
    torch.testing.assert_close(log_ratio(new, old, SEQUENCE, 2, "sequence"), torch.tensor([-0.1, -0.1, -0.1, 0.2]), **EXACT)


def test_the_gradient_of_a_sequences_ratio_goes_to_each_of_its_tokens_alike() -> None:
    """d exp(mean d) / d d_t = 1/3 at ratio 1, for each of the answer's three tokens' figures: 3 x 1/3 in the sum."""
    new = torch.zeros(4, requires_grad=True)
    log_ratio(new, torch.zeros(4), SEQUENCE, 2, "sequence").exp().sum().backward()
    torch.testing.assert_close(new.grad, torch.ones(4), **EXACT)


def test_divergence() -> None:
    """d = reference - new = ln 2, 0: 2 - ln 2 - 1 and 0; its gradient in new is 1 - exp(d)."""
    new = torch.tensor([-2.0, -1.0], requires_grad=True)
    found = divergence(new, torch.tensor([-2.0 + math.log(2), -1.0]))
    torch.testing.assert_close(found, torch.tensor([1 - math.log(2), 0.0]), **EXACT)
    found.sum().backward()
    torch.testing.assert_close(new.grad, torch.tensor([-1.0, 0.0]), rtol=1e-5, atol=1e-6)


def test_the_mean_divergence_of_draws_is_the_kl() -> None:
    """KL((0.5, 0.5) || (0.8, 0.2)) = 0.5 ln(0.5 / 0.8) + 0.5 ln(0.5 / 0.2)."""
    policy, reference = torch.tensor([0.5, 0.5]), torch.tensor([0.8, 0.2])
    exact = (policy * (policy / reference).log()).sum()
    torch.testing.assert_close((policy * divergence(policy.log(), reference.log())).sum(), exact, **EXACT)


def test_the_corrected_divergence_has_the_value_and_the_gradient_of_the_kl() -> None:
    """Drawn by (0.3, 0.7) from a policy that is (0.5, 0.5) now: its mean is the KL, its gradient p (ln(p / r) - KL) in a logit.

    The estimate alone, drawn by the policy itself, has another gradient: p - r, that of KL(reference || policy).
    """
    logits = torch.zeros(2, requires_grad=True)
    reference, old = torch.tensor([0.8, 0.2]), torch.tensor([0.3, 0.7])
    kl = 0.5 * math.log(0.5 / 0.8) + 0.5 * math.log(0.5 / 0.2)
    new = logits.log_softmax(-1)
    mean = (old * corrected(divergence(new, reference.log()), new, old.log())).sum()
    assert float(mean) == pytest.approx(kl, rel=1e-5)
    (gradient,) = torch.autograd.grad(mean, logits)
    wanted = [0.5 * (math.log(0.5 / 0.8) - kl), 0.5 * (math.log(0.5 / 0.2) - kl)]
    assert gradient.tolist() == pytest.approx(wanted, rel=1e-5)
    new = logits.log_softmax(-1)
    (alone,) = torch.autograd.grad((new.exp().detach() * divergence(new, reference.log())).sum(), logits)
    assert alone.tolist() == pytest.approx([0.5 - 0.8, 0.5 - 0.2], rel=1e-5)


def test_importance_is_capped_and_carries_no_gradient() -> None:
    policy = torch.tensor([math.log(0.5), math.log(0.9)], requires_grad=True)
    found = importance(policy, torch.tensor([math.log(0.4), math.log(0.3)]), cap=2.0)
    torch.testing.assert_close(found, torch.tensor([1.25, 2.0]), **EXACT)
    assert not found.requires_grad


def test_what_a_token_counts_for() -> None:
    """An answer of three tokens and one of one, the longest allowed 4; the sum over a step divided by items is the loss."""
    figures = torch.tensor([1.0, 2.0, 6.0, 5.0])

    def loss(kind) -> float:
        return float((token_weights(SEQUENCE, 2, kind, longest=4) * figures).sum()) / items(2, 4, kind)

    assert loss("grpo") == pytest.approx((9 / 3 + 5) / 2)
    assert loss("dapo") == pytest.approx(14 / 4)
    assert loss("dr_grpo") == pytest.approx(14 / 4 / 2)


def test_means_of_sequences() -> None:
    found = sequence_means(torch.tensor([1.0, 2.0, 6.0, 5.0]), SEQUENCE, 3)
    assert found.tolist() == [3.0, 5.0, 0.0]
