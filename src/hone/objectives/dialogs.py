"""What is learned of a conversation: all answers, the last one, or everything. The loss is another file's.

Does not know the model's architecture, how batches are laid out, or the loop.
"""

from __future__ import annotations

from typing import Literal

from hone.chat.codec import Codec
from hone.chat.encoded import Encoded
from hone.config.objective import Distill, Sft
from hone.data.batch import Batch
from hone.data.sample import Dialog


class Dialogs:
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

    def encode(self, samples: list[Dialog], codec: Codec) -> list[Encoded]:
        """One whole Encoded a conversation."""
        return codec.encode([sample.conversation for sample in samples], learn=self.learn)

    def count(self, batch: Batch) -> int:
        """The batch's trained tokens."""
        return batch.num_trained
