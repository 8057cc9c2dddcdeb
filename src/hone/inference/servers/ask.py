"""Ask and Client: what a server is asked for, one stretch of an answer at a time, in token ids, and what it tells.

Does not know any server's protocol, nor conversations.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hone.config.generate import GenerateConfig
from hone.errors import EngineError, ModelError
from hone.inference.base import Request, Steering
from hone.post import Unanswered, get, post, post_for_lines

SILENCE = 600.0
"""Seconds without a word after which a server is given up: a long prompt may wait behind many others."""
_SHOWN = 300


@dataclass(frozen=True)
class Ask:
    """The next `num_new` tokens behind `ids`, up to one of `stop_ids`, as `settings` and `steering` have them drawn.

    seed: below 2^63, None for a new one. adapter: its name at the server, "" for the base. allowed: the only ids that may be
    drawn; empty for all. json_schema: what is drawn is JSON of it; "" for anything.
    """

    ids: list[int]
    num_new: int
    stop_ids: tuple[int, ...]
    settings: GenerateConfig
    steering: Steering
    seed: int | None = None
    adapter: str = ""
    allowed: tuple[int, ...] = ()
    json_schema: str = ""


@dataclass(frozen=True)
class Said:
    """A token and, where asked for, its log-prob and those of the likeliest, by id."""

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Client(Protocol):
    """One kind of server. limit: tokens of prompt and answer together."""

    limit: int

    def refuse(self, request: Request) -> None:
        """Raise ModelError, which names the field, where this server cannot honour it."""
        ...

    def draw(self, ask: Ask) -> Iterator[Said]:
        """Tokens as they are drawn; closing it stops the server. Raises: ModelError."""
        ...

    def load_adapter(self, name: str, folder: Path) -> None:
        """Raises: ModelError."""
        ...

    def unload_adapter(self, name: str) -> None:
        """Raises: ModelError."""
        ...


class Line:
    """The way to one server. Raises ModelError, which names the server, where it does not answer as it should."""

    def __init__(self, name: str, url: str, key: str = ""):
        self.name, self._url, self._key = name, url.rstrip("/"), key

    def get(self, path: str) -> Any:
        """The JSON at a path."""
        try:
            return self.json(get(self._url + path, seconds=60, key=self._key))
        except Unanswered as problem:
            raise self._failed(path, problem) from problem

    def post(self, path: str, body: dict[str, Any]) -> bytes:
        """What is answered to a body."""
        try:
            return post(self._url + path, body, seconds=SILENCE, key=self._key)
        except Unanswered as problem:
            raise self._failed(path, problem) from problem

    def events(self, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Server-sent events, each a JSON object, up to [DONE]; closing it closes the connection, by which the server stops."""
        try:
            for line in post_for_lines(self._url + path, body, seconds=SILENCE, key=self._key):
                said = line.strip().removeprefix(b"data:").strip()
                if said == b"[DONE]":
                    return
                if said:
                    yield self._event(said)
        except Unanswered as problem:
            raise self._failed(path, problem) from problem
        raise self.wrong("its answer broke off")

    def json(self, said: bytes) -> Any:
        """Raises: ModelError where it is none."""
        try:
            return json.loads(said)
        except ValueError as problem:
            raise self.wrong(f"it answered {said[:_SHOWN]!r}, which is no JSON") from problem

    def wrong(self, words: str) -> EngineError:
        """The error for something that the server did."""
        return EngineError(self._told(words))

    def _told(self, words: str) -> str:
        return f"the {self.name} server at {self._url}: {words}"

    def _event(self, said: bytes) -> dict[str, Any]:
        event = self.json(said)
        if isinstance(event, dict) and "error" not in event:
            return event
        code = event["error"].get("code") if isinstance(event, dict) and isinstance(event["error"], dict) else None
        raise self._refused(f"it answered {said[:_SHOWN].decode(errors='replace')}", code)

    def _failed(self, path: str, problem: Unanswered) -> ModelError:
        return self._refused(f"it {problem} (asked {path})", problem.status)

    def _refused(self, words: str, status: int | None) -> ModelError:
        """status: the server's own; between 400 and 499 what was asked is wrong."""
        return ModelError(self._told(words)) if isinstance(status, int) and 400 <= status < 500 else self.wrong(words)


def require_ending(line: Line, ask: Ask, num: int, last: int | None, reason: str | None) -> None:
    """Raise ModelError where a server ended an answer otherwise than it was asked to.

    num: tokens that came; last: the last of them; reason: "stop" or "length", as it said.
    """
    stopped = last in ask.stop_ids
    if not num or reason != ("stop" if stopped else "length") or (not stopped and num < ask.num_new):
        raise line.wrong(
            f"it ended an answer after {num} of {ask.num_new} tokens, the last of them {last}, and says {reason}; hone's chat "
            f"format ends one at {', '.join(map(str, ask.stop_ids))}"
        )
