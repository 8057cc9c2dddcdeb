"""Numbers of whole answers, one a sequence: log-probs of the policy and of its reference, and how many tokens they are sums of.

Does not know what an objective makes of them.

Axes: B row, T token, S sequence, P pair.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from hone.chat.encoded import IGNORE
from hone.data.batch import Batch
from hone.models.policy import Policy
from hone.objectives.base import REFERENCE


class GivesLogprobs(Protocol):
    """A policy, or a reference."""

    def token_logprobs(self, batch: Batch) -> Tensor: ...


@dataclass(frozen=True)
class Answers:
    """logprobs_S: fp32 log-prob of each answer, summed over its tokens, with gradient; means_S: its mean over them.

    balance_S: the router's balance loss of each sequence, zeros where none is learned.
    """

    logprobs_S: Tensor
    means_S: Tensor
    balance_S: Tensor


def lengths(batch: Batch) -> Tensor:
    """fp32 [S]: trained tokens of each sequence."""
    return batch.sums((batch.labels_BT != IGNORE).float())


def read(policy: Policy, batch: Batch, ld_alpha: float | None = None) -> Answers:
    """The policy's answers; ld_alpha: as for `weights`. Means are over all tokens, unweighted."""
    lengths_S = lengths(batch).clamp(min=1)
    with policy.balance(batch) as balance:
        logprobs_BT = policy.token_logprobs(batch)
    balance_BT = balance().to(logprobs_BT.device)
    balance_S = batch.sums(balance_BT) / lengths_S if balance_BT.dim() else torch.zeros_like(lengths_S)
    sums_S = batch.sums(logprobs_BT)
    weighted_S = sums_S if ld_alpha is None else batch.sums(logprobs_BT * weights(batch, ld_alpha))
    return Answers(weighted_S, sums_S / lengths_S, balance_S)


def sums(model: GivesLogprobs, batch: Batch, ld_alpha: float | None = None) -> Tensor:
    """fp32 [S]: log-prob of each answer, summed over its tokens; ld_alpha: as for `weights`."""
    logprobs_BT = model.token_logprobs(batch)
    return batch.sums(logprobs_BT if ld_alpha is None else logprobs_BT * weights(batch, ld_alpha))


def reference_sums(policy: Policy, batch: Batch, ld_alpha: float | None = None) -> Tensor:
    """fp32 [S], no gradient: the reference's `sums`, which the batch carries where they were computed before training."""
    if REFERENCE in batch.aside:
        return batch.aside[REFERENCE]
    assert policy.reference is not None, "a loss against a reference, without one"
    return sums(policy.reference, batch, ld_alpha)


def weights(batch: Batch, ld_alpha: float) -> Tensor:
    """fp32 [B, T]: 1 for an answer's tokens up to the length of the shorter answer of its pair, ld_alpha for those beyond.

    Liu et al. 2024 (LD-DPO): p(answer) = p(its tokens up to there) * p(those beyond) ** ld_alpha.
    """
    trained_BT = batch.labels_BT != IGNORE
    lengths_S = lengths(batch)
    shared_S = lengths_S.view(-1, 2).amin(-1).repeat_interleave(2)
    places_BT, sequences_BT = trained_BT.cumsum(-1).float(), batch.sequences_BT.clamp(min=0)
    if batch.packed:  # counted from the row's start: less what stands in the sequences before
        places_BT = places_BT - (lengths_S.cumsum(0) - lengths_S)[sequences_BT]
    return torch.where(places_BT <= shared_S[sequences_BT], 1.0, ld_alpha)
