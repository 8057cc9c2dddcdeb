"""Returns: rewards of an answer's tokens, what was to be expected at each, and how much better it went: PPO's arithmetic.

Pure functions; does not know batches, models or processes. All is of the drawn tokens alone; N token of one answer or of many
laid end to end.

Ouyang et al. 2022 (InstructGPT) is the whole method; Ziegler et al. 2019 its first form for language models.
"""

from __future__ import annotations

from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

SMALL = 1e-8
"""Added to a variance before its root divides."""


def token_rewards(policy_N: np.ndarray, reference_N: np.ndarray, coef: float, score: float) -> np.ndarray:
    """-coef (policy - reference) at each token of an answer, in log-probs, and the score at its last; fp64 [N].

    Ziegler et al. 2019, eq. 2: the mean of the differences is KL(policy || reference), which holds the policy back.
    """
    rewards_N = -coef * (policy_N.astype(np.float64) - reference_N)
    rewards_N[-1] += score
    return rewards_N


def advantages_of(rewards_N: np.ndarray, values_N: np.ndarray, gamma: float, lam: float) -> np.ndarray:
    """Generalised advantage estimates of one answer, fp64 [N].  Schulman et al. 2016 (GAE), eq. 16.

    A_t = d_t + gamma lam A_(t+1) with d_t = r_t + gamma V_(t+1) - V_t; after the last token nothing comes.
    values_N: what was expected before each token was drawn.
    """
    values_N = values_N.astype(np.float64)
    steps_N = rewards_N + gamma * np.append(values_N[1:], 0.0) - values_N
    backwards = accumulate(steps_N[::-1].tolist(), lambda later, step: step + gamma * lam * later)
    return np.array(list(backwards)[::-1])


def whitened(values_N: np.ndarray, everything_N: np.ndarray, *, keep_mean: bool = False) -> np.ndarray:
    """values_N less the mean of everything_N, over its standard deviation (that of a sample); fp64 [N].

    everything_N: the tokens of the whole rollout, of which values_N are some. keep_mean: the mean is added again.
    """
    mean, variance = everything_N.mean(), everything_N.var(ddof=1) if len(everything_N) > 1 else 0.0
    return (values_N - mean) / np.sqrt(variance + SMALL) + (mean if keep_mean else 0.0)


def clipped_value(value_N: Tensor, old_N: Tensor, return_N: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """Half the squared error of a value, fp32 [N] with gradient, and where clipping made it the larger one, bool [N].

    max((V - R)^2, (clip(V, V_old - clip, V_old + clip) - R)^2) / 2: a value does not gain by moving further than `clip` in a
    rollout. openai/baselines, ppo2/model.py; it is not in the paper.
    """
    bounded_N = torch.maximum(torch.minimum(value_N, old_N + clip), old_N - clip)
    plain_N, clipped_N = (value_N - return_N).square(), (bounded_N - return_N).square()
    return torch.maximum(plain_N, clipped_N) / 2, clipped_N > plain_N
