"""Advantages: how much better an answer is than what was to be expected, from the rewards of the answers to one prompt.

Does not know rewards' sources, tokens or models. Axes: P prompt, G answer to it (of a group).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Estimator = Literal["grpo", "rloo"]
Scale = Literal["group", "batch", "none"]
SMALL = 1e-4
"""Added to a standard deviation before dividing by it."""


def group_relative(rewards_PG: Tensor, scale: Scale = "group") -> Tensor:
    """Reward minus the group's mean, over a standard deviation; fp32 [P, G].  Shao et al. 2024 (DeepSeekMath), section 4.1.2.

    scale: the deviation of the "group", of the whole "batch" (Liu et al. 2025, "Tricks or traps?": mean of the group,
    deviation of the batch), or "none" (Dr. GRPO, Liu et al. 2025, section 3.2: it favours too easy and too hard prompts).
    Deviations are those of a sample (n - 1); of one answer or one value alone they are 0, and so is the advantage.
    """
    rewards_PG = rewards_PG.float()
    centred_PG = rewards_PG - rewards_PG.mean(-1, keepdim=True)
    if scale == "none":
        return centred_PG
    deviation = _deviation(rewards_PG) if scale == "group" else _deviation(rewards_PG.flatten())
    return centred_PG / (deviation + SMALL)


def leave_one_out(rewards_PG: Tensor) -> Tensor:
    """Reward minus the mean of the group's other answers; fp32 [P, G], G at least 2.  Ahmadian et al. 2024 (RLOO)."""
    rewards_PG, others = rewards_PG.float(), rewards_PG.shape[-1] - 1
    assert others > 0, "leave-one-out needs another answer"
    return rewards_PG - (rewards_PG.sum(-1, keepdim=True) - rewards_PG) / others


def advantages(rewards_PG: Tensor, estimator: Estimator, scale: Scale) -> Tensor:
    """fp32 [P, G] by `estimator`; `scale` is group_relative's, and rloo has none."""
    return leave_one_out(rewards_PG) if estimator == "rloo" else group_relative(rewards_PG, scale)


def tells_nothing(rewards_PG: Tensor) -> Tensor:
    """bool [P]: all answers of the group have one reward, so their advantages are 0.  Yu et al. 2025 (DAPO), eq. 11."""
    return (rewards_PG == rewards_PG[:, :1]).all(-1)


def telling(rewards_PG: Tensor, learned_PG: Tensor) -> Tensor:
    """bool [P]: rewards differ in the group, and some answer of it counts: what dynamic sampling looks for.  DAPO, eq. 11."""
    return ~tells_nothing(rewards_PG) & learned_PG.any(-1)


def _deviation(values: Tensor) -> Tensor:
    """Standard deviation over the last axis, kept; 0 where there is one value."""
    if values.shape[-1] < 2:
        return torch.zeros_like(values[..., :1])
    return values.std(-1, keepdim=True)
