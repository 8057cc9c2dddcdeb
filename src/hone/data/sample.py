"""What one row of a data set means to training, whatever file and shape it came from. An objective names the one it eats.

Knows no tokenizer and no file format.
"""

from __future__ import annotations

from dataclasses import dataclass

from hone.chat.message import Conversation


@dataclass(frozen=True)
class Passage:
    """Plain text to continue: pretraining."""

    text: str


@dataclass(frozen=True)
class Dialog:
    """A conversation whose answers are learned: supervised fine-tuning."""

    conversation: Conversation


Sample = Passage | Dialog
