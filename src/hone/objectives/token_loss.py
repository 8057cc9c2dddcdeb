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
"""Of logits [n, V], labels [n] and the tokens' place among the batch's N: the loss, the plain one, what else is told; all [n]."""


def token_loss(policy: Policy, batch: Batch, numbers: Numbers, told: tuple[str, ...], *, plainly: bool) -> Loss:
    """The sum over the trained tokens of the first of `numbers` (where `plainly`, the second), with the router's balance loss.

    told: names of the numbers from the second on, which are logged as means over the tokens.
    """
    labels_N = batch.labels_BT[batch.labels_BT != IGNORE]

    def measure(logits_nV: Tensor, part: slice) -> Tensor:
        return torch.stack(numbers(logits_nV, labels_N[part], part))

    with policy.balance(batch) as balance:
        learned_BT, *others = policy.measured(batch, measure)
    total = (others[0] if plainly else learned_BT).sum() + balance().sum().to(learned_BT.device)
    count = float(len(labels_N))
    return Loss(total, {name: (one_BT.detach().sum(), count) for name, one_BT in zip(told, others, strict=True)})


def label_logprob(logits_nV: Tensor, labels_n: Tensor) -> Tensor:
    """[n]: log p of each label."""
    return _label_logit(logits_nV, labels_n) - logits_nV.logsumexp(-1)


def _label_logit(logits_nV: Tensor, labels_n: Tensor) -> Tensor:
    return logits_nV.gather(-1, labels_n.unsqueeze(-1)).squeeze(-1)


def smoothed_loss(policy: Policy, batch: Batch, share: float) -> Loss:
    """The cross-entropy, in training label-smoothed by `share`; where that is 0, by the narrower way of log-probs alone."""
    if not share:
        return Loss(policy.token_losses(batch).sum())

    def numbers(logits_nV: Tensor, labels_n: Tensor, part: slice) -> tuple[Tensor, ...]:
        logsumexp_n = logits_nV.logsumexp(-1)
        logprob_n = _label_logit(logits_nV, labels_n) - logsumexp_n
        return smoothed(logprob_n, logits_nV.mean(-1) - logsumexp_n, share), -logprob_n

    return token_loss(policy, batch, numbers, ("nll_loss",), plainly=not policy.module.training)
