"""Settings of what is learned from a sample: the kind of training and its numbers.

Does not know the model or the data's files.
"""

from __future__ import annotations

from typing import Literal

from hone.config.section import Section, knob


class Sft(Section):
    """Learn the answers of conversations."""

    kind: Literal["sft"] = "sft"
    train_on_prompt: bool = knob(
        False,
        "Learns the questions and system prompts too, not the answers alone. For models that shall also write like your users.",
        level="advanced",
    )
    mask_history: bool = knob(
        False,
        "Learns only the last answer of each conversation. Turn it on where the earlier answers are of another hand, "
        "or where every conversation is repeated with one more answer.",
    )


class Pretrain(Section):
    """Learn to continue plain text."""

    kind: Literal["pretrain"] = "pretrain"


Objective = Sft | Pretrain
