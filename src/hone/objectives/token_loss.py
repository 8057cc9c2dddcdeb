"""The loss of a batch's trained tokens: the plain cross-entropy, or one computed of every token's whole distribution.

Does not know which loss, nor the model's architecture.

Axes: B row, T token, N trained token, n trained token of a chunk, V vocabulary, M number.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hone.chat.encoded import IGNORE
from hone.data.batch import Batch
from hone.models.policy import Policy
from hone.objectives.base import Loss
from hone.objectives.sft_losses import smoothed

Numbers = Callable[[Tensor, Tensor, slice], tuple[Tensor, ...]]
"""Of logits [n, V], labels [n] and the tokens' place among the batch's N: the loss [n] and what is told beside it, each [n]."""


def plain_loss(policy: Policy, batch: Batch) -> Loss:
    """Minus the sum of the trained tokens' log-probs, and in training the router's balance loss where there is one."""
    return Loss(policy.token_losses(batch).sum())


def token_loss(policy: Policy, batch: Batch, numbers: Numbers, told: tuple[str, ...]) -> Loss:
    """The sum over the trained tokens of the first of `numbers`, and in training the router's balance loss.

    told: the names of the further numbers, logged as means over the tokens.
    """
    labels_N = batch.labels_BT[batch.labels_BT != IGNORE]

    def measure(logits_nV: Tensor, part: slice) -> Tensor:
        return torch.stack(numbers(logits_nV, labels_N[part], part))

    with policy.balance(batch) as balance:
        learned_BT, *others = policy.measured(batch, measure)
    total = learned_BT.sum() + balance().sum().to(learned_BT.device)
    count = float(batch.num_trained)
    return Loss(total, {name: (one_BT.detach().sum(), count) for name, one_BT in zip(told, others, strict=True)})


def label_logprob(logits_nV: Tensor, labels_n: Tensor) -> Tensor:
    """[n]: log p of each label."""
    return logits_nV.gather(-1, labels_n.unsqueeze(-1)).squeeze(-1) - logits_nV.logsumexp(-1)


def smoothing(share: float) -> Numbers:
    """Label smoothing, and the plain loss beside it."""

    def numbers(logits_nV: Tensor, labels_n: Tensor, part: slice) -> tuple[Tensor, ...]:
        logsumexp_n = logits_nV.logsumexp(-1)
        logprob_n = logits_nV.gather(-1, labels_n.unsqueeze(-1)).squeeze(-1) - logsumexp_n
        return smoothed(logprob_n, logits_nV.mean(-1) - logsumexp_n, share), -logprob_n

    return numbers
