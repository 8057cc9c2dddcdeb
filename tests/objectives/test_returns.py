"""PPO's arithmetic by numbers that can be checked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hone.objectives.control import KlControl, Moments
from hone.objectives.returns import SMALL, advantages_of, clipped_value, token_rewards, whitened

NUMBERS = st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=12)


def array(*numbers: float) -> np.ndarray:
    return np.array(numbers, np.float32)


def test_each_token_pays_for_its_divergence_and_the_last_has_the_score():
    """0.5 x (-1 + 2) off the first; 0.5 x (-1 + 0.5) paid for the second, and 3 for the answer."""
    found = token_rewards(array(-1, -1), array(-2, -0.5), 0.5, 3.0)
    assert found.tolist() == [-0.5, 0.25 + 3.0]


def test_advantages_by_hand():
    """d = (1 + 0.5 x 4 - 2, 3 + 0 - 4) = (1, -1); A_2 = -1; A_1 = 1 + 0.5 x 0.8 x -1 = 0.6."""
    assert advantages_of(array(1, 3), array(2, 4), 0.5, 0.8) == pytest.approx([0.6, -1])


@given(NUMBERS, st.floats(-3, 3))
def test_without_discount_and_with_lambda_1_it_is_what_came_less_what_was_expected(rewards, value):
    """gamma = lam = 1: the sum of the rewards from there on, less the value (GAE, eq. 18)."""
    rewards_N, values_N = np.array(rewards), np.full(len(rewards), value)
    expected = np.cumsum(rewards_N[::-1])[::-1] - value
    assert advantages_of(rewards_N, values_N, 1.0, 1.0) == pytest.approx(expected, abs=1e-9)


@given(NUMBERS)
def test_with_lambda_0_it_is_one_step_s_error(rewards):
    """GAE, eq. 17."""
    rewards_N, values_N = np.array(rewards), np.arange(len(rewards), dtype=np.float32)
    expected = rewards_N + 0.9 * np.append(values_N[1:], 0) - values_N
    assert advantages_of(rewards_N, values_N, 0.9, 0.0) == pytest.approx(expected, abs=1e-9)


def test_whitening_takes_the_whole_rollout_s_moments():
    """Of 1, 3: mean 2, variance of a sample 2."""
    everything = np.array([1.0, 3.0])
    assert whitened(everything[:1], everything) == pytest.approx([-1 / np.sqrt(2 + SMALL)])
    assert whitened(everything, everything, keep_mean=True).mean() == pytest.approx(2)
    assert whitened(np.array([5.0]), np.array([5.0])).tolist() == [0]


def test_a_value_gains_nothing_beyond_the_clip():
    """Old 0, clip 0.2. R 1. V = 1: clipped to 0.2, off by 0.8. V = 0.1: not clipped. V = -1: worse than clipped."""
    value_N = torch.tensor([1.0, 0.1, -1.0], requires_grad=True)
    loss_N, clipped_N = clipped_value(value_N, torch.zeros(3), torch.ones(3), 0.2)
    assert loss_N.tolist() == pytest.approx([0.32, 0.405, 2.0])
    assert clipped_N.tolist() == [True, False, False]
    loss_N.sum().backward()
    assert value_N.grad.tolist() == pytest.approx([0.0, -0.9, -2.0])


def test_the_coefficient_follows_the_divergence():
    """Twice the target counts as a fifth above it: 0.2 x (1 + 0.2 x 64 / 640). A tenth below counts as it is."""
    control = KlControl(0.2, 6.0, 640.0)
    control.update(12.0, 64)
    assert control.coef == pytest.approx(0.2 * 1.02)
    control.update(5.4, 64)
    assert control.coef == pytest.approx(0.2 * 1.02 * 0.99)


def test_a_fixed_coefficient_stays():
    control = KlControl(0.05)
    control.update(100.0, 64)
    assert control.coef == 0.05


@given(st.lists(NUMBERS, min_size=1, max_size=5))
def test_moments_are_those_of_all_scores_at_once(rollouts):
    moments = Moments()
    for scores in rollouts:
        moments.update(np.array(scores))
    everything = np.concatenate(rollouts)
    assert moments.count == len(everything)
    assert moments.mean == pytest.approx(everything.mean(), abs=1e-9)
    assert moments.variance == pytest.approx(everything.var(), abs=1e-9)


def test_scores_are_normalised_by_what_was_seen():
    """1 and 3, then 5: mean 3, deviation of a sample 2."""
    moments = Moments()
    moments.update(np.array([1.0, 3.0]))
    moments.update(np.array([5.0]))
    assert moments.normalised(np.array([5.0, 3.0])) == pytest.approx([1.0, 0.0])
    again = Moments()
    again.load(moments.state())
    assert again == moments


def test_equal_scores_say_nothing():
    moments = Moments()
    moments.update(np.array([2.0]))
    assert moments.normalised(np.array([2.0])).tolist() == [0.0]
