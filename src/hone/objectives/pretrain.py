"""Pretraining: learn to continue plain text, every token alike.

Does not know the model's architecture, how batches are laid out, or the loop.
"""

from __future__ import annotations

from hone.chat.codec import Codec
from hone.chat.encoded import Example
from hone.config.objective import Pretrain as PretrainConfig
from hone.data.batch import Batch
from hone.data.sample import Passage
from hone.models.policy import Policy
from hone.objectives.base import Loss, Usual
from hone.objectives.token_loss import smoothed_loss


class Pretrain(Usual):
    """Cross-entropy of every token of a passage but its first, which nothing precedes."""

    sample = Passage
    has_perplexity = True
    fingerprint = "pretrain-2"

    def __init__(self, settings: PretrainConfig):
        self.smoothing = settings.label_smoothing_factor
        if self.smoothing:
            self.metrics, self.logit_chunks = ("nll_loss",), 4

    def encode(self, samples: list[Passage], codec: Codec) -> list[Example]:
        """One whole Example a passage."""
        return [Example((sequence,)) for sequence in codec.encode_text([sample.text for sample in samples])]

    def count(self, batch: Batch) -> int:
        """The batch's trained tokens."""
        return batch.num_trained

    def loss(self, policy: Policy, batch: Batch) -> Loss:
        """The sum of the trained tokens' losses, and the router's balance loss where there is one; in evaluation unsmoothed."""
        return smoothed_loss(policy, batch, self.smoothing)
