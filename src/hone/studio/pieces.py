"""Pieces: an answer as a reader sees it grow, its words, thoughts and calls apart.

Know no page and no model.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from hone.chat.events import ArgumentsGrown, CallBegun, CallDropped, CallMade, Event, TextGrown, ThoughtGrown


@dataclass
class Piece:
    """text: as far as it has grown, of a call its arguments' JSON. name: the function's. done: nothing more comes.

    broken: a call that could not be read, as text.
    """

    kind: Literal["text", "thought", "call", "broken"]
    text: str = ""
    name: str = ""
    done: bool = False


class Pieces:
    """`pieces.feed(delta.events)`; `pieces.all` never loses one, so that each may be shown at its number.

    A call that is dropped stays, empty: what it was made of follows as broken text.
    """

    def __init__(self) -> None:
        self.all: list[Piece] = []
        self._calls: dict[int, Piece] = {}

    def feed(self, events: Iterable[Event]) -> None:
        """What is new."""
        for event in events:
            if isinstance(event, TextGrown):
                self._grow("broken" if event.malformed else "text", event.text)
            elif isinstance(event, ThoughtGrown):
                self._grow("thought", event.text)
            elif isinstance(event, CallBegun):
                self._calls[event.index] = self._begin(Piece("call", name=event.name))
            elif isinstance(event, ArgumentsGrown):
                self._calls[event.index].text += event.text
            elif isinstance(event, CallMade):
                self._calls[event.index].done = True
            elif isinstance(event, CallDropped):
                dropped = self._calls[event.index]
                dropped.text, dropped.name, dropped.done = "", "", True

    def close(self) -> None:
        """Nothing more comes."""
        for piece in self.all:
            piece.done = True

    def _grow(self, kind: Literal["text", "thought", "broken"], text: str) -> None:
        last = self.all[-1] if self.all else None
        if last is None or last.kind != kind:
            last = self._begin(Piece(kind))
        last.text += text

    def _begin(self, piece: Piece) -> Piece:
        if self.all and self.all[-1].kind != "call":
            self.all[-1].done = True
        self.all.append(piece)
        return piece
