"""Surrogates: losses whose gradient raises the probability of answers by their advantage, clipped where the policy has moved.

Pure functions over tensors; does not know batches, groups or models. Everything is a figure for each token: who calls sums them.

Axes: N drawn token, S sequence (answer).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Level = Literal["token", "sequence"]
Normalisation = Literal["grpo", "dapo", "dr_grpo"]


@dataclass(frozen=True)
class Clipped:
    """loss_N: fp32, with gradient. low_N, high_N: bool, where clipping from below or above took the gradient away."""

    loss_N: Tensor
    low_N: Tensor
    high_N: Tensor


def log_ratio(new_N: Tensor, old_N: Tensor, sequence_N: Tensor, num_sequences: int, level: Level) -> Tensor:
    """log of (policy / the policy that drew), fp32 [N].

    token: of each token (Schulman et al. 2017, PPO, eq. 6). sequence: its mean over the answer, the same for all its tokens
    (Zheng et al. 2025, GSPO, eq. 7: the length-normalised ratio of sequences); then the gradient goes through every token alike.
    """
    difference_N = new_N - old_N
    if level == "token":
        return difference_N
    return sequence_means(difference_N, sequence_N, num_sequences)[sequence_N]


def clipped(log_ratio_N: Tensor, advantages_N: Tensor, low: float, high: float) -> Clipped:
    """-min(r A, clip(r, 1 - low, 1 + high) A), with r = exp(log_ratio).  PPO, eq. 7; low and high apart: DAPO, eq. 10."""
    ratio_N = log_ratio_N.exp()
    plain_N = ratio_N * advantages_N
    bounded_N = ratio_N.clamp(1 - low, 1 + high) * advantages_N
    low_N = (ratio_N < 1 - low) & (advantages_N < 0)
    high_N = (ratio_N > 1 + high) & (advantages_N > 0)
    return Clipped(-torch.minimum(plain_N, bounded_N), low_N, high_N)


def divergence(new_N: Tensor, reference_N: Tensor) -> Tensor:
    """exp(d) - d - 1 with d = reference - new: not below 0, its mean over draws is KL(policy || reference).

    Schulman 2020, "Approximating KL divergence", k3; DeepSeekMath, eq. 4.
    """
    difference_N = reference_N - new_N
    return difference_N.exp() - difference_N - 1


def corrected(divergence_N: Tensor, new_N: Tensor, old_N: Tensor) -> Tensor:
    """The divergence of tokens that `old` drew, times new / old, with gradient.  DeepSeek-V3.2 (2025), "Unbiased KL Estimate".

    Its mean over draws of `old` is KL(policy || reference), and so is its gradient's, which that of the estimate alone is not.
    """
    return (new_N - old_N).exp() * divergence_N


def importance(policy_N: Tensor, drawn_N: Tensor, cap: float) -> Tensor:
    """min(policy / the distribution an engine drew from, cap) for each token, no gradient.  Yao et al. 2025, truncated importance

    sampling: an engine's numbers are not the trainer's, so that what it draws is a little off the policy.
    """
    return (policy_N.detach() - drawn_N).exp().clamp(max=cap)


def token_weights(sequence_N: Tensor, num_sequences: int, normalisation: Normalisation, longest: int) -> Tensor:
    """What each token's figure counts for in the sum over a step, fp32 [N]; `items` says what that sum is divided by.

    grpo: 1 / the answer's tokens (DeepSeekMath, eq. 3). dapo: 1 (DAPO, eq. 12: all tokens alike). dr_grpo: 1 / longest,
    the longest answer allowed, a constant (Liu et al. 2025, "Understanding R1-Zero-like training", section 3.2, listing 1).
    """
    if normalisation == "grpo":
        return 1 / _counts(sequence_N, num_sequences)[sequence_N]
    return torch.full(sequence_N.shape, 1.0 if normalisation == "dapo" else 1 / longest, device=sequence_N.device)


def items(num_sequences: int, num_tokens: int, normalisation: Normalisation) -> int:
    """What a step's sum is divided by: its tokens for dapo, its answers for the others."""
    return num_tokens if normalisation == "dapo" else num_sequences


def sequence_means(values_N: Tensor, sequence_N: Tensor, num_sequences: int) -> Tensor:
    """The mean of each sequence's values, fp32 [S]; 0 for one without a token."""
    sums_S = torch.zeros(num_sequences, device=values_N.device).index_add(0, sequence_N, values_N)
    return sums_S / _counts(sequence_N, num_sequences)


def _counts(sequence_N: Tensor, num_sequences: int) -> Tensor:
    return torch.bincount(sequence_N, minlength=num_sequences).clamp(min=1).float()
