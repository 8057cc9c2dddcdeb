"""Reading: the text of an answer to a message, with its thoughts and calls, whole or as it grows.

Does not know tokens: control tokens come marked by the codec.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hone.chat.dialects.dialect import Dialect, Mark
from hone.chat.dialects.reader import Reader, overlap
from hone.chat.events import Event, ThoughtGrown, parts_of
from hone.chat.message import Message, Text

Tools = Sequence[Mapping[str, Any]]


def same(marker: str) -> str:
    """The mark of plain text: a marker is searched for as it is spelled."""
    return marker


@dataclass(frozen=True)
class Reading:
    """lead, tail: text the format puts around an answer; opens_thought: the prompt has already opened a thought;

    plain_thoughts: thoughts are ordinary text here, even where the tokenizer has tokens for them. think_open, think_close: the
    words around a thought, without white space. say_open: words of which one may stand before the text that is said.
    """

    dialect: Dialect
    lead: str = ""
    tail: str = ""
    opens_thought: bool = False
    plain_thoughts: bool = False
    think_open: str = "<think>"
    think_close: str = "</think>"
    say_open: tuple[str, ...] = ()

    def answer(self, mark: Mark = same, tools: Tools = (), opened: bool | None = None) -> Growing:
        """An answer that is read as it grows. opened: whether its prompt opened a thought, None for the usual."""
        return Growing(self, mark, tools, self.opens_thought if opened is None else opened)


def message_of(events: Iterable[Event]) -> Message:
    """The assistant's message that all events of an answer come to."""
    return Message("assistant", parts_of(events) or (Text(""),))


class Growing:
    """`feed(text)` gives the events that are now certain, `close()` the rest: thought, then text and calls.

    A thought that is not closed is a thought to the end. Line breaks around a thought are the format's.
    """

    def __init__(self, reading: Reading, mark: Mark, tools: Tools, opened: bool):
        think = same if reading.plain_thoughts else mark
        self._open, self._close = think(reading.think_open), think(reading.think_close)
        self._lead, self._tail = ("" if reading.dialect.reads_lead else mark(reading.lead)), mark(reading.tail)
        self._words = tuple(map(mark, reading.say_open))
        self._reader = Reader(reading.dialect, mark, tools)
        self._opened, self._place, self._ended, self._thought = opened, "lead", False, False
        self._waiting = ""

    def feed(self, text: str) -> list[Event]:
        """Take further text."""
        self._waiting += text
        return list(self._read())

    def close(self) -> list[Event]:
        """There is no more text."""
        self._ended = True
        self._waiting = self._waiting.removesuffix(self._tail)
        return [*self._read(), *self._reader.close()]

    def _read(self) -> Iterator[Event]:
        held = "" if self._ended or not self._tail else self._may_be_tail()
        self._waiting = self._waiting.removesuffix(held)
        steps = {
            "lead": self._read_lead, "open": self._read_open, "thought": self._read_thought, "after": self._read_after,
            "words": self._read_words,
        }  # fmt: skip
        while self._place in steps and (yield from steps[self._place]()):
            pass
        if self._place == "said" and self._waiting:
            yield from self._reader.feed(self._waiting)
            self._waiting = ""
        self._waiting += held

    def _may_be_tail(self) -> str:
        """What stands at the end and may be the tail, or its beginning."""
        text, tail = self._waiting, self._tail
        return tail if text.endswith(tail) else text[len(text) - overlap(text, tail) :]

    def _move(self, place: Literal["open", "thought", "after", "words", "said"]) -> bool:
        self._place = place
        return True

    def _read_lead(self) -> Iterator[Event]:
        yield from ()
        if not self._ended and len(self._waiting) < len(self._lead) and self._lead.startswith(self._waiting):
            return False
        self._waiting = self._waiting.removeprefix(self._lead)
        return self._move("open")

    def _read_open(self) -> Iterator[Event]:
        yield from ()
        words = self._waiting.lstrip()
        if words.startswith(self._open):
            self._waiting = words[len(self._open) :]
            return self._move("thought")
        if not self._ended and self._open.startswith(words):
            return False
        return self._move("thought" if self._opened else "words")

    def _read_thought(self) -> Iterator[Event]:
        thought, closed, rest = self._waiting.partition(self._close)
        done = bool(closed) or self._ended
        if not done:
            thought = thought[: len(thought) - overlap(thought, self._close)]
        kept = thought.rstrip("\n")
        words = kept if self._thought else kept.lstrip("\n")
        said = bool(words) and (self._thought or not words.isspace())
        if said:
            self._thought = True
            yield ThoughtGrown(words)
        self._waiting = rest if done else self._waiting[len(kept) if said else 0 :]
        return bool(closed) and self._move("after")

    def _read_after(self) -> Iterator[Event]:
        yield from ()
        self._waiting = self._waiting.lstrip("\n")
        return bool(self._waiting) and self._move("words")

    def _read_words(self) -> Iterator[Event]:
        yield from ()
        found = next((word for word in self._words if self._waiting.startswith(word)), "")
        if not found and not self._ended and any(word.startswith(self._waiting) for word in self._words):
            return False
        self._waiting = self._waiting.removeprefix(found)
        return self._move("said")
