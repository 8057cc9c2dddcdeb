"""Losses of pairs, by numbers that can be checked by hand: sigmoid(log 3) = 3/4, sigmoid(log 4) = 4/5.

Tolerance: fp32, 1e-6 of numbers near 1.
"""

from __future__ import annotations

from math import exp, log

import pytest
import torch
from torch import Tensor

from hone.objectives import pair_losses


def row(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float32, requires_grad=True)


def near(found: Tensor, *wanted: float) -> None:
    assert found.tolist() == pytest.approx(wanted, abs=1e-6)


def test_sigmoid_is_minus_the_log_of_the_chance_that_the_chosen_one_wins():
    near(pair_losses.sigmoid(row(0.0, 2 * log(3), -2 * log(3)), 0.5), log(2), -log(3 / 4), -log(1 / 4))


def test_smoothed_sigmoid_has_a_share_of_the_pair_turned_round():
    near(pair_losses.sigmoid(row(log(3)), 1.0, 0.1), -0.9 * log(3 / 4) - 0.1 * log(1 / 4))


def test_robust_is_right_on_average_over_labels_that_are_turned_round():
    margin, flip = row(log(4)), 0.2
    mean = (1 - flip) * pair_losses.robust(margin, 1.0, flip) + flip * pair_losses.robust(-margin, 1.0, flip)
    near(mean, *pair_losses.sigmoid(margin, 1.0).tolist())
    near(pair_losses.robust(margin, 1.0, flip), (0.2 * log(1 / 5) - 0.8 * log(4 / 5)) / 0.6)


def test_hinge_is_nothing_beyond_its_margin():
    near(pair_losses.hinge(row(0.0, 5.0, 10.0, 20.0, -10.0), 0.1), 1, 0.5, 0, 0, 2)


def test_ipo_wants_a_margin_of_one_over_two_beta():
    near(pair_losses.ipo(row(5.0, 0.0, 6.0), 0.1), 0, 25, 1)


def test_kto_pair_holds_each_answer_against_the_other_side():
    chosen, rejected, kl = row(1 + log(3)), row(2 - log(4)), torch.tensor
    near(pair_losses.kto_pair(chosen, rejected, 1.0, kl(2.0), kl(1.0)), ((1 - 3 / 4) + (1 - 4 / 5)) / 2)


def test_bco_parts_the_two_sides_at_the_mean_reward():
    near(pair_losses.bco(row(2 * (1 + log(3))), row(2 * (1 - log(4))), 0.5, torch.tensor(1.0)), -log(3 / 4) - log(4 / 5))


def test_simpo_wants_gamma_more():
    near(pair_losses.simpo(row(-1.0), row(-1.0 - log(3) / 2), 2.0, 0.0), -log(3 / 4))
    near(pair_losses.simpo(row(-1.0), row(-1.0 - log(3) / 2), 2.0, log(3)), log(2))


def test_orpo_adds_the_log_of_the_odds_ratio_to_plain_learning():
    chosen, rejected = row(log(3 / 4)), row(log(1 / 2))  # odds 3 and 1
    near(pair_losses.odds_ratio(chosen, rejected), -log(3 / 4))
    near(pair_losses.orpo(chosen, rejected, 0.1), -log(3 / 4) - 0.1 * log(3 / 4))


def test_cpo_learns_the_chosen_answer_too():
    near(pair_losses.cpo(row(-2.0), row(-2.0 - 10 * log(3)), 0.1, row(-0.5)), -log(3 / 4) + 0.5)


@pytest.mark.parametrize("logprob", [-1e-6, -0.01, -0.6931, -0.7, -5.0, -60.0])
def test_the_log_of_the_other_chance_is_exact_at_both_ends(logprob):
    exact = torch.log1p(-torch.exp(torch.tensor(logprob, dtype=torch.float64)))
    found = pair_losses.log_one_minus(row(logprob))
    assert found.item() == pytest.approx(exact.item(), rel=1e-5)
    found.sum().backward()


def test_certainty_has_a_finite_gradient():
    sure = row(0.0, -1e-9)
    pair_losses.odds_ratio(sure, row(-1.0, -1.0)).sum().backward()
    assert torch.isfinite(sure.grad).all()


def test_gradients_push_the_two_answers_apart():
    for loss in (lambda c, r: pair_losses.simpo(c, r, 2.0, 0.5), lambda c, r: pair_losses.cpo(c, r, 0.1, c)):
        chosen, rejected = row(-1.0), row(-1.0)
        loss(chosen, rejected).sum().backward()
        assert chosen.grad.item() < 0 < rejected.grad.item()
    margin = row(0.3)
    pair_losses.sigmoid(margin, 0.5).sum().backward()
    assert margin.grad.item() == pytest.approx(-0.5 / (1 + exp(0.15)), abs=1e-6)
