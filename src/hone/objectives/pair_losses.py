"""Losses of pairs of answers: each a formula over numbers of a pair, one value a pair.

Does not know the model, the batch, nor which numbers were read: a score is what an objective gives an answer.

Axes: P pair.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def sigmoid(margin_P: Tensor, beta: float, smoothing: float = 0.0) -> Tensor:
    """DPO: -log sigmoid(beta * margin).  Rafailov et al. 2023, eq. 7.

    margin_P: log-ratio to the reference of the chosen answer minus that of the rejected one, each summed over its tokens.
    smoothing: share of the pairs taken to be the wrong way round (conservative DPO, Mitchell 2023): the same loss of the
    pair turned round has that share.
    """
    right, wrong = functional.logsigmoid(beta * margin_P), functional.logsigmoid(-beta * margin_P)
    return -(1 - smoothing) * right - smoothing * wrong


def robust(margin_P: Tensor, beta: float, smoothing: float) -> Tensor:
    """The loss whose mean over pairs of which a share `smoothing` is turned round is DPO's without them.

    (-(1 - s) log sigmoid(beta * margin) + s log sigmoid(-beta * margin)) / (1 - 2 s).  Chowdhury et al. 2024, section 3.1.
    """
    right, wrong = functional.logsigmoid(beta * margin_P), functional.logsigmoid(-beta * margin_P)
    return (smoothing * wrong - (1 - smoothing) * right) / (1 - 2 * smoothing)


def hinge(margin_P: Tensor, beta: float) -> Tensor:
    """max(0, 1 - beta * margin).  Zhao et al. 2023 (SLiC-HF), section 2, on DPO's margin."""
    return torch.relu(1 - beta * margin_P)


def ipo(margin_P: Tensor, beta: float) -> Tensor:
    """Squared distance of the margin from 1 / (2 beta).  Azar et al. 2023, eq. 17.

    margin_P: as for `sigmoid`, but each log-ratio is the mean over its answer's tokens, as its authors compute it.
    """
    return (margin_P - 1 / (2 * beta)).square()


def kto_pair(chosen_P: Tensor, rejected_P: Tensor, beta: float, chosen_kl: Tensor, rejected_kl: Tensor) -> Tensor:
    """KTO of the two answers of a pair, the mean of both: Ethayarajh et al. 2024, eq. 7, with equal weights.

    chosen_P, rejected_P: log-ratios to the reference; chosen_kl, rejected_kl: their means over a whole step, not below 0. Each
    answer is held against the other side's.
    """
    good = 1 - torch.sigmoid(beta * (chosen_P - rejected_kl))
    bad = 1 - torch.sigmoid(beta * (chosen_kl - rejected_P))
    return (good + bad) / 2


def bco(chosen_P: Tensor, rejected_P: Tensor, beta: float, shift: Tensor) -> Tensor:
    """-log sigmoid(beta * chosen - shift) - log sigmoid(shift - beta * rejected).  Jung et al. 2024, section 4.

    chosen_P, rejected_P: log-ratios to the reference; shift: the mean reward (beta times them) of both sides over a step.
    """
    return -functional.logsigmoid(beta * chosen_P - shift) - functional.logsigmoid(shift - beta * rejected_P)


def simpo(chosen_P: Tensor, rejected_P: Tensor, beta: float, gamma: float) -> Tensor:
    """-log sigmoid(beta * (chosen - rejected) - gamma), without a reference.  Meng et al. 2024, eq. 6.

    chosen_P, rejected_P: mean log-prob of the answer's tokens.
    """
    return -functional.logsigmoid(beta * (chosen_P - rejected_P) - gamma)


def odds_ratio(chosen_P: Tensor, rejected_P: Tensor) -> Tensor:
    """ORPO's second term, -log sigmoid(log(odds(chosen) / odds(rejected))).  Hong et al. 2024, eq. 7.

    chosen_P, rejected_P: mean log-prob of the answer's tokens, log p; odds(p) = p / (1 - p).
    """
    return -functional.logsigmoid((chosen_P - log_one_minus(chosen_P)) - (rejected_P - log_one_minus(rejected_P)))


def orpo(chosen_P: Tensor, rejected_P: Tensor, beta: float) -> Tensor:
    """-chosen + beta * odds_ratio: plain learning of the chosen answer beside the odds ratio.  Hong et al. 2024, eq. 6."""
    return -chosen_P + beta * odds_ratio(chosen_P, rejected_P)


def cpo(chosen_P: Tensor, rejected_P: Tensor, beta: float, mean_P: Tensor) -> Tensor:
    """-log sigmoid(beta * (chosen - rejected)) - mean, without a reference.  Xu et al. 2024, eq. 3 and its behaviour cloning.

    chosen_P, rejected_P: log-prob of the answer, summed over its tokens; mean_P: the chosen one's mean over its tokens, so that
    plain learning weighs the same for answers of every length.
    """
    return -functional.logsigmoid(beta * (chosen_P - rejected_P)) - mean_P


def log_one_minus(logprob: Tensor) -> Tensor:
    """log(1 - exp(logprob)), exact near both ends. Probability 1 is taken for the largest fp32 number below it."""
    logprob = logprob.clamp(max=math.log1p(-(2.0**-24)))
    near_one = logprob > -math.log(2)
    # Both branches see numbers they can bear: `where` passes gradients through the one that is not taken.
    upper = torch.log(-torch.expm1(torch.where(near_one, logprob, -0.5)))
    return torch.where(near_one, upper, torch.log1p(-torch.exp(torch.where(near_one, -1.0, logprob))))
