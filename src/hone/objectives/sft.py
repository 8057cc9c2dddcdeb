"""Supervised fine-tuning: learn the answers of conversations, every trained token alike.

Does not know the model's architecture, how batches are laid out, or the loop.
"""

from __future__ import annotations

from typing import Literal

from hone.chat.codec import Codec
from hone.chat.encoded import Example
from hone.config.objective import Sft as SftConfig
from hone.data.batch import Batch
from hone.data.sample import Dialog
from hone.models.policy import Policy
from hone.objectives.base import Loss, Usual


class Sft(Usual):
    """Cross-entropy of the trained tokens: all answers, the last one (`mask_history`) or everything (`train_on_prompt`)."""

    sample = Dialog
    has_perplexity = True

    def __init__(self, settings: SftConfig):
        self.learn: Literal["answers", "last", "all"] = "answers"
        if settings.mask_history:
            self.learn = "last"
        elif settings.train_on_prompt:
            self.learn = "all"
        self.fingerprint = f"sft-2:{self.learn}"

    def examples(self, sample: Dialog, codec: Codec) -> list[Dialog]:
        """One a conversation, more where the template rewrites earlier answers."""
        return list(map(Dialog, codec.examples(sample.conversation))) if self.learn == "answers" else [sample]

    def encode(self, samples: list[Dialog], codec: Codec) -> list[Example]:
        """One whole Example a conversation."""
        encoded = codec.encode([sample.conversation for sample in samples], learn=self.learn)
        return [Example((sequence,)) for sequence in encoded]

    def count(self, batch: Batch) -> int:
        """The batch's trained tokens."""
        return batch.num_trained

    def loss(self, policy: Policy, batch: Batch) -> Loss:
        """Minus the sum of the trained tokens' log-probs, and the router's balance loss where there is one."""
        return Loss(policy.token_losses(batch).sum())
