"""Desk: the model that is served, on what terms, in which line, and where it is counted: what routes and pages share.

Does not know HTTP, nor how a model is loaded.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import cached_property

from hone.inference.base import Delta, Engine, Request
from hone.serving.asked import Terms
from hone.serving.media import MediaDoor
from hone.serving.metrics import Metrics
from hone.serving.refusal import Refusal
from hone.serving.turns import Turns, taken_in_turn


@dataclass(frozen=True)
class Vectors:
    """Vectors of texts, and the tokens that were read."""

    rows: list[list[float]]
    num_tokens: int


@dataclass(frozen=True)
class Served:
    """A model by its name and what it can do; None for what it cannot.

    embed: vectors of texts, which are queries or not. score: a number a text, each cut at a number of tokens, None for nowhere.
    """

    name: str
    engine: Engine | None = None
    embed: Callable[[Sequence[str], bool], Vectors] | None = None
    score: Callable[[Sequence[str], int | None], list[float]] | None = None
    created: int = field(default_factory=lambda: int(time.time()))


@dataclass(frozen=True)
class Desk:
    """One for each app."""

    served: Served
    terms: Terms
    turns: Turns
    metrics: Metrics

    @cached_property
    def media(self) -> MediaDoor:
        """Where the pictures, films and sounds of requests come in."""
        engine = self.served.engine
        return MediaDoor(self.terms.limits, engine.media if engine is not None else frozenset(), self.metrics)

    @property
    def adapters(self) -> tuple[str, ...]:
        """Those beside the base."""
        return self.served.engine.adapters if self.served.engine is not None else ()

    @property
    def names(self) -> tuple[str, ...]:
        """What a request may name as its model: the base first."""
        return (self.served.name, *self.adapters)

    def adapter(self, name: str | None) -> str:
        """The adapter that a model's name stands for, "" for the base. Raises: Refusal."""
        if name is None or name == self.served.name:
            return ""
        if name not in self.adapters:
            named = ", ".join((f"{self.served.name} (API_MODEL_NAME)", *self.adapters))
            told = f"there is no model {name[:200]!r} here; this server serves {named}"
            raise Refusal(404, told, param="model", code="model_not_found")
        return name

    async def answer(self, request: Request) -> AsyncIterator[Delta]:
        """One answer as it grows, in its turn; closing this stops the model. Raises: as taken_in_turn."""
        engine, begun, first = self.served.engine, time.monotonic(), True
        assert engine is not None, "only a model that writes is asked"
        drawn = taken_in_turn(lambda: engine.generate(request), self.turns, self.terms.limits.api_timeout)
        async with aclosing(drawn):
            async for delta in drawn:
                if first:
                    self.metrics.add("hone_first_token_seconds_sum", time.monotonic() - begun)
                    self.metrics.add("hone_first_token_seconds_count")
                    first = False
                if delta.answer is not None:
                    self.metrics.add("hone_prompt_tokens_total", delta.answer.num_prompt)
                    self.metrics.add("hone_answer_tokens_total", delta.answer.num_tokens)
                yield delta
