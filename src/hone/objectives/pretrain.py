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


class Pretrain(Usual):
    """Cross-entropy of every token of a passage but its first, which nothing precedes."""

    sample = Passage
    has_perplexity = True
    fingerprint = "pretrain-2"

    def __init__(self, settings: PretrainConfig):
        del settings  # what it holds is the policy's

    def encode(self, samples: list[Passage], codec: Codec) -> list[Example]:
        """One whole Example a passage."""
        return [Example((sequence,)) for sequence in codec.encode_text([sample.text for sample in samples])]

    def count(self, batch: Batch) -> int:
        """The batch's trained tokens."""
        return batch.num_trained

    def loss(self, policy: Policy, batch: Batch) -> Loss:
        """Minus the sum of the trained tokens' log-probs, and the router's balance loss where there is one."""
        return Loss(policy.token_losses(batch).sum())
