"""Supervised fine-tuning: learn the answers of conversations, every trained token alike or weighed.

Does not know the model's architecture, how batches are laid out, or the loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from hone.chat.codec import Codec
from hone.chat.encoded import Encoded
from hone.config.objective import Sft as SftConfig
from hone.data.batch import Batch
from hone.data.sample import Dialog
from hone.models.policy import Policy
from hone.objectives.base import Loss
from hone.objectives.divergence import forward_kl
from hone.objectives.sft_losses import asft, dft, eaft, top_entropy
from hone.objectives.token_loss import Numbers, label_logprob, plain_loss, smoothing, token_loss


class Sft:
    """Cross-entropy of the trained tokens: all answers, the last one (`mask_history`) or everything (`train_on_prompt`).

    In training another loss of the token may stand in its place (`sft_loss`, `label_smoothing_factor`).
    """

    sample = Dialog

    def __init__(self, settings: SftConfig):
        self.settings = settings
        self.learn: Literal["answers", "last", "all"] = "answers"
        if settings.mask_history:
            self.learn = "last"
        elif settings.train_on_prompt:
            self.learn = "all"
        self.fingerprint = f"sft-2:{self.learn}"

    def examples(self, sample: Dialog, codec: Codec) -> list[Dialog]:
        """One a conversation, more where the template rewrites earlier answers."""
        return list(map(Dialog, codec.examples(sample.conversation))) if self.learn == "answers" else [sample]

    def encode(self, samples: list[Dialog], codec: Codec) -> list[Encoded]:
        """One whole Encoded a conversation."""
        return codec.encode([sample.conversation for sample in samples], learn=self.learn)

    def count(self, batch: Batch) -> int:
        """The batch's trained tokens."""
        return batch.num_trained

    def loss(self, policy: Policy, batch: Batch) -> Loss:
        """The sum of the trained tokens' losses, and of the router's balance where there is one; in evaluation the plain loss."""
        kind, share = self.settings.sft_loss, self.settings.label_smoothing_factor
        if not policy.module.training or (kind == "cross_entropy" and not share):
            return plain_loss(policy, batch)
        if kind == "asft":
            numbers = _anchored(policy.reference.label_logits(batch), self.settings.asft_alpha)
            return token_loss(policy, batch, numbers, ("nll_loss", "kl"))
        if kind == "eaft":
            return token_loss(policy, batch, _by_entropy(self.settings.eaft_alpha), ("nll_loss", "entropy"))
        return token_loss(policy, batch, _by_probability if kind == "dft" else smoothing(share), ("nll_loss",))


def _by_probability(logits_nV: Tensor, labels_n: Tensor, part: slice) -> tuple[Tensor, ...]:
    logprob_n = label_logprob(logits_nV, labels_n)
    return dft(logprob_n), -logprob_n


def _by_entropy(alpha: float) -> Numbers:
    def numbers(logits_nV: Tensor, labels_n: Tensor, part: slice) -> tuple[Tensor, ...]:
        logprob_n, entropy_n = label_logprob(logits_nV, labels_n), top_entropy(logits_nV.detach())
        return eaft(logprob_n, entropy_n, alpha), -logprob_n, entropy_n

    return numbers


def _anchored(reference: Callable[[slice], Tensor], alpha: float) -> Numbers:
    def numbers(logits_nV: Tensor, labels_n: Tensor, part: slice) -> tuple[Tensor, ...]:
        logprobs_nV = torch.log_softmax(logits_nV, -1)
        logprob_n = logprobs_nV.gather(-1, labels_n.unsqueeze(-1)).squeeze(-1)
        kl_n = forward_kl(torch.log_softmax(reference(part), -1), logprobs_nV)
        return asft(logprob_n, kl_n, alpha), -logprob_n, kl_n

    return numbers
