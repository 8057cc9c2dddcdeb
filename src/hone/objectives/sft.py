"""Supervised fine-tuning: learn the answers of conversations, every trained token alike or weighed.

Does not know the model's architecture, how batches are laid out, or the loop.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from hone.config.objective import Sft as SftConfig
from hone.data.batch import Batch
from hone.models.policy import Policy
from hone.objectives.base import Loss
from hone.objectives.dialogs import Dialogs
from hone.objectives.divergence import forward_kl, over_shared
from hone.objectives.sft_losses import asft, dft, eaft, top_entropy
from hone.objectives.token_loss import Numbers, label_logprob, smoothed_loss, token_loss

TOLD = {"cross_entropy": ("nll_loss",), "dft": ("nll_loss",), "eaft": ("nll_loss", "entropy"), "asft": ("nll_loss", "kl")}
"""What is told beside each loss: the plain one, and what weighs or holds it."""


CHUNKS = {"cross_entropy": 4, "dft": 4, "eaft": 4, "asft": 6}
"""Chunks of logits that each loss holds at once, where the plain one holds two: as measured by bench/distribution.py."""


class Sft(Dialogs):
    """Cross-entropy of the trained tokens, in training perhaps another loss (`sft_loss`, `label_smoothing_factor`)."""

    has_perplexity = True

    def __init__(self, settings: SftConfig):
        super().__init__(settings)
        self.settings = settings
        self.needs_reference = settings.sft_loss == "asft"
        if settings.sft_loss != "cross_entropy" or settings.label_smoothing_factor:
            self.metrics, self.logit_chunks = TOLD[settings.sft_loss], CHUNKS[settings.sft_loss]

    def loss(self, policy: Policy, batch: Batch) -> Loss:
        """The sum of the trained tokens' losses, and of the router's balance where there is one; in evaluation the plain loss."""
        kind, plainly = self.settings.sft_loss, not policy.module.training
        if kind == "cross_entropy":
            return smoothed_loss(policy, batch, self.settings.label_smoothing_factor)
        numbers = _by_probability
        if kind == "asft":
            numbers = _anchored(policy.reference.label_logits(batch), self.settings.asft_alpha)
        elif kind == "eaft":
            numbers = _by_entropy(self.settings.eaft_alpha)
        return token_loss(policy, batch, numbers, self.metrics, plainly=plainly)


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
        logprob_n, kl_n = label_logprob(logits_nV, labels_n), forward_kl(*over_shared(reference(part), logits_nV))
        return asft(logprob_n, kl_n, alpha), -logprob_n, kl_n

    return numbers
