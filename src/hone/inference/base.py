"""Request, Delta, Engine: how the house asks a model for an answer and hears it come.

Does not know which engine answers, nor tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from hone.chat.events import Event
from hone.chat.message import Conversation, Message
from hone.config.generate import GenerateConfig

Finish = Literal["stop", "length", "context"]
"""Why an answer ended: the model said that it is done, its length was reached, or the longest text the model can hold was."""


@dataclass(frozen=True)
class Steering:
    """What one answer is held to beside the numbers of how it is drawn.

    stop: texts at which what is said ends; they are not part of it. one_call: the answer ends with its first call.
    presence_penalty, frequency_penalty: taken from the logit of a token of the answer's own once, and for each time it was drawn.
    logit_bias: added to logits by token id. num_top: tell each token's log-prob and those of this many likeliest; None: of none.
    functions: the answer begins with a call of one of these. json_schema: what is said is JSON of this schema; '' for anything.
    """

    stop: tuple[str, ...] = ()
    one_call: bool = False
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    num_top: int | None = None
    functions: tuple[str, ...] = ()
    json_schema: str = ""


@dataclass(frozen=True)
class Request:
    """What to answer and how. conversation: a text is continued as it is, and what follows it is not read for thoughts and calls.

    seed: of the draw, None for a new one each time. adapter: one of the engine's `adapters`, "" for the base. thinks: with a
    thought or without one, where the engine `thinks_on_demand`; None for the way of the settings.
    """

    conversation: Conversation | str
    settings: GenerateConfig
    seed: int | None = None
    steering: Steering = Steering()
    adapter: str = ""
    thinks: bool | None = None


@dataclass(frozen=True)
class Choice:
    """A token and its log-prob under the model, before temperature, penalties and cuts."""

    text: str
    logprob: float


@dataclass(frozen=True)
class Token(Choice):
    """A token that was drawn, and the likeliest ones at its place."""

    top: tuple[Choice, ...] = ()


@dataclass(frozen=True)
class Answer:
    """A whole answer. num_prompt, num_tokens: tokens read and drawn, the stop token included."""

    message: Message
    finish: Finish
    num_prompt: int
    num_tokens: int


@dataclass(frozen=True)
class Delta:
    """The next words of an answer; never half a character, and none where nothing new is certain.

    answer: with the last Delta alone. text: as the model wrote it, thoughts and calls too, also what follows a stop text; events
    tell them apart as they grow, and come to `answer.message`. tokens: those of the events, where the request asks for them;
    the token that ends an answer is none of them.
    """

    text: str
    answer: Answer | None = None
    events: tuple[Event, ...] = ()
    tokens: tuple[Token, ...] = ()


class Engine(Protocol):
    """Anything that answers. num_together: answers that `generate` draws at once, each called in a thread of its own.

    adapters: names that a request may ask for beside the base. thinks_on_demand: whether the chat format has a switch for
    thoughts. media: the kinds of media parts ("image", "video", "audio") that a request may hold; others are refused.
    """

    num_together: int

    @property
    def media(self) -> frozenset[str]: ...

    @property
    def thinks_on_demand(self) -> bool: ...

    @property
    def adapters(self) -> tuple[str, ...]: ...

    def add_adapter(self, name: str, place: str) -> None:
        """Take a saved adapter in, a folder or a hub's id, while answers are drawn. Raises: ModelError."""
        ...

    def remove_adapter(self, name: str) -> None:
        """Let it go once no answer is drawn with it; new requests for it are refused from now on. Raises: ModelError."""
        ...

    def generate(self, request: Request) -> Iterator[Delta]:
        """The answer as it is drawn; closing the iterator stops the model."""
        ...

    def generate_many(self, requests: Sequence[Request]) -> list[Answer]:
        """Whole answers, in the order of the requests."""
        ...
