"""What one row of a data set means to training, whatever file and shape it came from. An objective names the one it eats.

Knows no tokenizer and no file format.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hone.chat.message import Conversation


@dataclass(frozen=True)
class Passage:
    """Plain text to continue: pretraining."""

    text: str


@dataclass(frozen=True)
class Dialog:
    """A conversation whose answers are learned: supervised fine-tuning."""

    conversation: Conversation


@dataclass(frozen=True)
class Pair:
    """Two conversations that differ in their last answer alone, and the first is the better one: preference, reward."""

    chosen: Conversation
    rejected: Conversation


@dataclass(frozen=True)
class Rated:
    """A conversation whose last answer somebody called good or bad: KTO."""

    conversation: Conversation
    good: bool


@dataclass(frozen=True)
class Task:
    """A conversation that waits for an answer, which the policy gives itself: PPO, GRPO.

    answer: the reference, "" where the row has none; columns: the row's other columns, for rewards that read them.
    """

    conversation: Conversation
    answer: str = ""
    columns: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Match:
    """A query, texts that answer it and texts that seem to and do not: embeddings, rerankers."""

    query: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...] = ()


@dataclass(frozen=True)
class Labelled:
    """A text and what somebody said of it, as the row has it, a class or a number: classifiers."""

    text: str
    label: str | int | float


Sample = Passage | Dialog | Pair | Rated | Task | Match | Labelled


def asks_nothing(sample: Sample) -> bool:
    """Whether it is a conversation with an empty message of a user, as of a column that is null."""
    if isinstance(sample, Passage | Match | Labelled):
        return False
    talk = sample.chosen if isinstance(sample, Pair) else sample.conversation
    return any(said.role == "user" and not said.text.strip() and not said.media for said in talk.messages)


def texts_of(sample: Sample) -> list[str]:
    """Everything that somebody wrote in it."""
    if isinstance(sample, Passage | Labelled):
        return [sample.text]
    if isinstance(sample, Match):
        return [sample.query, *sample.positives, *sample.negatives]
    talks = (sample.chosen, sample.rejected) if isinstance(sample, Pair) else (sample.conversation,)
    return [said.text for talk in talks for said in talk.messages]
