"""From sampled ids back: whole answers to messages, and answers in the making to text.

Does not know templates beyond their Reading.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hone.chat.message import Message, Part, Text, Think
from hone.chat.reading import Reading
from hone.chat.tokens import Place, Tokens

_TAG = "\ud800"
"""Half a character, which no decoded text holds: it stands before the spelling of a real control token."""

_LONGEST_CHARACTER = 4
"""Bytes of UTF-8, and so at most tokens, that may still be missing from a character."""


class Decoder:
    """Ids to text and messages. place: where an answer's first run stands, asked for when it is needed."""

    def __init__(self, tokens: Tokens, reading: Reading, stop_ids: tuple[int, ...], place: Callable[[], Place]):
        self.tokens, self.reading, self.stop_ids, self.place = tokens, reading, frozenset(stop_ids), place

    def message(self, ids: Sequence[int]) -> Message:
        """The message that ends before the first stop token."""
        end = next((index for index, token in enumerate(ids) if token in self.stop_ids), len(ids))
        read = self.reading.message(self.text(ids[:end], _TAG), self._mark)
        return Message(read.role, tuple(map(_untagged, read.parts)))

    def text(self, ids: Sequence[int], tag: str = "") -> str:
        """The text with control tokens spelled out, `tag` before each."""
        found: list[str] = []
        waiting: list[int] = []
        place = self.place()
        for token in ids:
            name = self.tokens.name_of.get(token)
            if name is None:
                waiting.append(token)
                continue
            found += [self.tokens.decode(waiting, place), tag + name]
            waiting, place = [], "after"
        return "".join(found) + self.tokens.decode(waiting, place)

    def _mark(self, marker: str) -> str:
        """A marker may hold several control tokens and text between them."""
        return "".join(_TAG + text if control else text for text, control in self.tokens.split(marker))


def _untagged(part: Part) -> Part:
    if isinstance(part, Text):
        return Text(part.text.replace(_TAG, ""))
    if isinstance(part, Think):
        return Think(part.text.replace(_TAG, ""))
    return part


class Stream:
    """`feed(ids)` gives the text that is now certain, `close()` the rest, `message()` all of it read.

    The first stop token ends it; what is fed after that counts for nothing. The deltas joined are the
    text of the answer without the format's lead.
    """

    def __init__(self, decoder: Decoder):
        self._decoder = decoder
        self._ids: list[int] = []
        self._waiting: list[int] = []
        self._place: Place = decoder.place()
        self._begun = self._ended = False

    def feed(self, ids: Sequence[int]) -> str:
        """Take further ids; '' while a character is incomplete."""
        found = ""
        for token in ids:
            if self._ended:
                break
            self._ids.append(token)
            self._ended = token in self._decoder.stop_ids
            name = self._decoder.tokens.name_of.get(token)
            if name is None:
                self._waiting.append(token)
                continue
            found += self._decoder.tokens.decode(self._waiting, self._place)
            self._waiting, self._place = [], "after"
            found += "" if self._ended else name
        return self._led(found + self._certain())

    def close(self) -> str:
        """What is left; an incomplete character becomes U+FFFD."""
        rest = self._decoder.tokens.decode(self._waiting, self._place)
        self._waiting = []
        return self._led(rest)

    def message(self) -> Message:
        """All ids fed so far, read as a message."""
        return self._decoder.message(self._ids)

    def _certain(self) -> str:
        """The text of the waiting ids, unless its end may still change."""
        text = self._decoder.tokens.decode(self._waiting, self._place)
        incomplete = len(text) - len(text.rstrip("\ufffd"))
        if not text or 0 < incomplete < _LONGEST_CHARACTER:
            return ""
        # The next run continues this one: nothing is put before it.
        self._waiting, self._place = [], "middle"
        return text

    def _led(self, text: str) -> str:
        """`text` without the format's lead where it is the first."""
        if self._begun or not text:
            return text
        self._begun = True
        return text.removeprefix(self._decoder.reading.lead)
