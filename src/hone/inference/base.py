"""Request, Delta, Engine: how the house asks a model for an answer and hears it come.

Does not know which engine answers, nor tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from hone.chat.events import Event
from hone.chat.message import Conversation, Message
from hone.config.use import GenerateConfig

Finish = Literal["stop", "length", "context"]
"""Why an answer ended: the model said that it is done, its length was reached, or the longest text the model can hold was."""


@dataclass(frozen=True)
class Request:
    """What to answer and how. seed: of the draw, None for a new one each time."""

    conversation: Conversation
    settings: GenerateConfig
    seed: int | None = None


@dataclass(frozen=True)
class Answer:
    """A whole answer. num_prompt, num_tokens: tokens read and drawn, the stop token included."""

    message: Message
    finish: Finish
    num_prompt: int
    num_tokens: int


@dataclass(frozen=True)
class Delta:
    """The next words of an answer; never half a character. answer: with the last Delta alone, which may have no text.

    Thoughts and calls are in `text` as the model wrote them; events tell them apart as they grow, and come to `answer.message`.
    """

    text: str
    answer: Answer | None = None
    events: tuple[Event, ...] = ()


class Engine(Protocol):
    """Anything that answers."""

    def generate(self, request: Request) -> Iterator[Delta]:
        """The answer as it is drawn; closing the iterator stops the model."""
        ...

    def generate_many(self, requests: Sequence[Request]) -> list[Answer]:
        """Whole answers, in the order of the requests."""
        ...
