"""What is learned of a conversation: all answers, the last one, or everything. The loss is another file's.

Does not know the model's architecture, how batches are laid out, or the loop.
"""

from __future__ import annotations

from typing import Literal

from hone.chat.codec import Codec
from hone.chat.encoded import Example
from hone.config.objective import Distill, Sft
from hone.data.batch import Batch
from hone.data.sample import Dialog
from hone.objectives.base import Usual


class Dialogs(Usual):
    """Conversations whose trained tokens are all answers, the last one (`mask_history`) or everything (`train_on_prompt`)."""

    sample = Dialog

    def __init__(self, settings: Sft | Distill):
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
