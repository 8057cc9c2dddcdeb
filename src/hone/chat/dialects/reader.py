"""Reader: what an answer says after its thought, to events: text, and calls as a dialect writes them. Nothing is lost.

Does not know tokens or thoughts. What it finds does not depend on how the text was cut when it was fed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from hone.chat.dialects.dialect import Dialect, Mark
from hone.chat.dialects.scan import NoCall, Scan, Step
from hone.chat.events import CallDropped, CallMade, Event, TextGrown


class Reader:
    """`feed(text)` gives the events that are now certain, `close()` the rest.

    White space beside calls is the dialect's, and dropped. From a marker on, what is no call is malformed text, to the dialect's
    closing word, the next marker or the end; calls that were complete before it in the same block stay calls.
    """

    def __init__(self, dialect: Dialect, mark: Mark, tools: Sequence[Mapping[str, Any]] = ()):
        self._dialect, self._scan = dialect, Scan(mark, tools)
        self._markers = [mark(word) for word in dialect.markers]
        self._closing = mark(dialect.closing) if dialect.closing else ""
        self._kept = 0  # the text before this was given away
        self._behind: Literal["start", "words", "call"] = "start"  # what stands before that
        self._malformed = False
        self._block: Step[None] | None = None
        self._begun, self._marker, self._gap = 0, "", ""  # the block's place, its first word and the white space before it
        if dialect.anchored:
            self._start(0, "")

    def feed(self, text: str) -> list[Event]:
        """Take further text."""
        self._scan.text += text
        return list(self._read())

    def close(self) -> list[Event]:
        """There is no more text."""
        self._scan.ended = True
        return list(self._read())

    def _read(self) -> Iterator[Event]:
        more = True
        while more:
            more = yield from self._call(self._block) if self._block is not None else self._words()

    def _start(self, at: int, marker: str) -> None:
        self._begun, self._marker, self._scan.at = at, marker, at
        self._block = self._dialect.calls(self._scan)

    def _call(self, block: Step[None]) -> Iterator[Event]:
        """The block as far as it goes; whether it has ended."""
        try:
            for event in block:
                if event is None:
                    return False
                if isinstance(event, CallMade):
                    self._kept, self._behind, self._gap, self._malformed = self._scan.at, "call", "", False
                yield event
        except NoCall:
            yield from self._no_call()
        else:
            yield from self._say(self._gap)
            self._kept, self._malformed = self._scan.at, False
        self._block, self._gap = None, ""
        return True

    def _no_call(self) -> Iterator[Event]:
        """The block's words are text, but for the calls that are complete."""
        scan = self._scan
        flagged = scan.num_begun > scan.num_made or not self._dialect.loose
        for index in range(scan.num_made, scan.num_begun):
            yield CallDropped(index)
        scan.num_made = scan.num_begun
        if self._kept <= self._begun:
            yield from self._say(self._gap)
            self._kept = self._begun
            self._malformed = flagged
            yield from self._say(self._marker)
            self._kept += len(self._marker)
        else:
            self._malformed = flagged

    def _words(self) -> Iterator[Event]:
        """Text up to the next marker; whether there is one."""
        text = self._scan.text
        words = [*self._markers, *([self._closing] if self._malformed and self._closing else [])]
        at, word = min(((at, word) for word in words if (at := text.find(word, self._kept)) >= 0), default=(-1, ""))
        if at < 0:
            held = 0 if self._scan.ended else max((overlap(text, word, self._kept) for word in words), default=0)
            yield from self._give(len(text) - held, last=self._scan.ended)
            return False
        if self._malformed and word == self._closing:
            yield from self._give(at + len(word))
            self._malformed, self._behind = False, "start"
            return True
        yield from self._give(at)
        self._gap = text[self._kept : at]
        if self._behind == "words":
            gap = self._dialect.gap if self._gap.endswith(self._dialect.gap) else ""
            yield from self._say(self._gap.removesuffix(gap))
            self._gap = gap
        self._kept = at
        self._start(at, word)
        return True

    def _give(self, end: int, *, last: bool = False) -> Iterator[Event]:
        """The text up to `end`, but for white space at its end, unless it is the last."""
        said = self._scan.text[self._kept : end]
        if self._malformed:
            self._kept = end
            yield from self._say(said)
            return
        kept = said if last and (said.strip() or self._behind != "call") else said.rstrip()
        self._kept += len(kept)
        yield from self._say(kept.lstrip() if self._behind == "call" else kept)

    def _say(self, text: str) -> Iterator[Event]:
        if text:
            self._behind = "words"
            yield TextGrown(text, self._malformed)


def overlap(text: str, word: str, start: int = 0) -> int:
    """How many characters at the end of `text` from `start` on begin `word` without being all of it."""
    most = min(len(word) - 1, len(text) - start)
    return next((size for size in range(most, 0, -1) if text.endswith(word[:size])), 0)
