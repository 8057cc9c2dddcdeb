"""Advantages against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hone.objectives.advantage import SMALL, advantages, group_relative, leave_one_out, tells_nothing

REWARDS = torch.tensor([[1.0, 0.0, 0.0, 1.0], [3.0, 1.0, 1.0, 1.0]])
EXACT = {"rtol": 0, "atol": 1e-6}  # a few roundings of fp32


def test_group_relative() -> None:
    """Means 0.5 and 1.5; deviations of samples sqrt(4 x 0.25 / 3) and sqrt((2.25 + 3 x 0.25) / 3) = 1."""
    first, second = (1 / 3) ** 0.5 + SMALL, 1 + SMALL
    expected = [[0.5 / first, -0.5 / first, -0.5 / first, 0.5 / first], [1.5 / second, *[-0.5 / second] * 3]]
    torch.testing.assert_close(group_relative(REWARDS), torch.tensor(expected), **EXACT)


def test_without_the_deviation() -> None:
    """Dr. GRPO."""
    expected = torch.tensor([[0.5, -0.5, -0.5, 0.5], [1.5, -0.5, -0.5, -0.5]])
    torch.testing.assert_close(group_relative(REWARDS, "none"), expected, **EXACT)


def test_the_batchs_deviation() -> None:
    """All eight: mean 1, squares 0 1 1 0 4 0 0 0, deviation sqrt(6 / 7)."""
    expected = torch.tensor([[0.5, -0.5, -0.5, 0.5], [1.5, -0.5, -0.5, -0.5]]) / ((6 / 7) ** 0.5 + SMALL)
    torch.testing.assert_close(group_relative(REWARDS, "batch"), expected, **EXACT)


def test_leave_one_out() -> None:
    """1 - mean(0, 0, 1) = 2/3; 0 - mean(1, 0, 1) = -2/3; 3 - 1 = 2; 1 - mean(3, 1, 1) = -2/3."""
    expected = torch.tensor([[2 / 3, -2 / 3, -2 / 3, 2 / 3], [2.0, -2 / 3, -2 / 3, -2 / 3]])
    torch.testing.assert_close(leave_one_out(REWARDS), expected, **EXACT)


@given(st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=8))
def test_leave_one_out_is_dr_grpo_times_n_over_n_minus_1(rewards: list[float]) -> None:
    group = torch.tensor([rewards])
    factor = len(rewards) / (len(rewards) - 1)
    torch.testing.assert_close(leave_one_out(group), factor * group_relative(group, "none"), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_equal_rewards_say_nothing(scale) -> None:
    group = torch.full((1, 4), 0.7)
    assert bool(tells_nothing(group).all())
    torch.testing.assert_close(group_relative(group, scale), torch.zeros(1, 4), rtol=0, atol=1e-3)


def test_only_groups_of_one_reward_tell_nothing() -> None:
    assert tells_nothing(torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])).tolist() == [True, False, True]


def test_an_estimator_by_name() -> None:
    assert torch.equal(advantages(REWARDS, "rloo", "group"), leave_one_out(REWARDS))
    assert torch.equal(advantages(REWARDS, "grpo", "none"), group_relative(REWARDS, "none"))
