"""From sampled ids back: whole answers to messages, and answers in the making to text and events.

Does not know templates beyond their Reading.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from hone.chat.dialects.scan import TAG
from hone.chat.events import Event, TextGrown, ThoughtGrown
from hone.chat.message import Message
from hone.chat.reading import Growing, Reading, Tools, message_of
from hone.chat.tokens import Place, Tokens

_LONGEST_CHARACTER = 4
"""Bytes of UTF-8, and so at most tokens, that may still be missing from a character."""

_LONGEST_OPENING = 16
"""Tokens at the end of a prompt among which the word that opens a thought is sought."""


class Decoder:
    """Ids to text and messages. place: where an answer's first run stands, asked for when it is needed."""

    def __init__(self, tokens: Tokens, reading: Reading, stop_ids: tuple[int, ...], place: Callable[[], Place]):
        self.tokens, self.reading, self.stop_ids, self.place = tokens, reading, frozenset(stop_ids), place

    def message(self, ids: Sequence[int], tools: Tools = (), prompt: Sequence[int] = ()) -> Message:
        """The message that ends before the first stop token."""
        end = next((index for index, token in enumerate(ids) if token in self.stop_ids), len(ids))
        answer = self.reading.answer(self.mark, tools, self.opened(prompt))
        return message_of(_spelled([*answer.feed(self.text(ids[:end], TAG)), *answer.close()]))

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

    def opened(self, prompt: Sequence[int]) -> bool | None:
        """Whether the prompt ends inside a thought; None for a prompt that is not known."""
        if not len(prompt) or self.reading.plain_thoughts:
            return None
        return self.text(prompt[-_LONGEST_OPENING:], TAG).rstrip().endswith(self.mark(self.reading.think_open))

    def closed(self, ids: Sequence[int]) -> bool:
        """Whether the last of an answer's ids is the one that completes the word which closes a thought."""
        close = self.mark(self.reading.think_close)
        return close in self.text(ids[-_LONGEST_OPENING:], TAG) and close not in self.text(ids[-_LONGEST_OPENING:-1], TAG)

    def mark(self, marker: str) -> str:
        """The marker as `text` spells it with TAG: what is a control token is found only as that token."""
        return "".join(TAG + text if control else text for text, control in self.tokens.split(marker))


@dataclass(frozen=True)
class Heard:
    """What further ids say: text, as the model wrote it, and events, which tell thoughts, text and calls apart."""

    text: str
    events: tuple[Event, ...] = ()


class _AsItIs:
    """Text that is read for nothing."""

    def feed(self, text: str) -> list[Event]:
        """Takes further text."""
        return [TextGrown(text)] if text else []

    def close(self) -> list[Event]:
        """Nothing is held back."""
        return []


class Stream:
    """`feed(ids)` gives what is now certain, `close()` the rest.

    The first stop token ends it; what is fed after that counts for nothing. The texts joined are the text of the answer without
    the format's lead; the events joined are the message. The control tokens `hidden` are no part of either, but where events
    give back a call that cannot be read.
    """

    def __init__(self, decoder: Decoder, tools: Tools = (), prompt: Sequence[int] = (), hidden: frozenset[int] = frozenset()):
        self._decoder, self._hidden = decoder, hidden
        self._unsaid = sorted((decoder.tokens.name_of[token] for token in hidden), key=len, reverse=True)
        self._answer: Growing | _AsItIs = decoder.reading.answer(decoder.mark, tools, decoder.opened(prompt))
        self._waiting: list[int] = []
        self._place: Place = decoder.place()
        self._begun = self._ended = False

    @classmethod
    def of_text(cls, decoder: Decoder, hidden: frozenset[int] = frozenset()) -> Stream:
        """What continues a text: no format is around it, and its events are its text."""
        stream = cls(decoder, hidden=hidden)
        stream._answer, stream._place, stream._begun = _AsItIs(), "middle", True
        return stream

    def feed(self, ids: Sequence[int]) -> Heard:
        """Take further ids; nothing is heard while a character is incomplete."""
        text, events = "", []
        for token in ids:
            if self._ended:
                break
            self._ended = token in self._decoder.stop_ids
            name = self._decoder.tokens.name_of.get(token)
            if name is None:
                self._waiting.append(token)
                said = self._certain()
                text, events = text + said, events + self._answer.feed(said)
                continue
            said = self._decoder.tokens.decode(self._waiting, self._place)
            self._waiting, self._place = [], "after"
            events += self._answer.feed(said if self._ended else said + TAG + name)
            text += said if self._ended or token in self._hidden else said + name
        return Heard(self._led(text), _spelled(events, self._unsaid))

    def close(self) -> Heard:
        """What is left; an incomplete character becomes U+FFFD."""
        rest = self._decoder.tokens.decode(self._waiting, self._place)
        self._waiting = []
        return Heard(self._led(rest), _spelled([*self._answer.feed(rest), *self._answer.close()], self._unsaid))

    def _certain(self) -> str:
        """The text of the waiting ids, unless its end may still change."""
        text = self._decoder.tokens.decode(self._waiting, self._place)
        incomplete = len(text) - len(text.rstrip("\ufffd"))
        if not text or 0 < incomplete < _LONGEST_CHARACTER:
            return ""
        growing = self._growing(text) if incomplete else 0
        said = self._decoder.tokens.decode(self._waiting[:-growing], self._place) if growing else text
        # The next run continues this one: nothing is put before it.
        self._waiting, self._place = self._waiting[-growing:] if growing else [], "middle"
        return said

    def _growing(self, text: str) -> int:
        """How many of the waiting ids, behind bytes that are no character, may be the beginning of one."""
        decode = self._decoder.tokens.decode
        for num in range(min(len(self._waiting) - 1, _LONGEST_CHARACTER - 1), 0, -1):
            head, tail = decode(self._waiting[:-num], self._place), decode(self._waiting[-num:], "middle")
            if tail == "\ufffd" and head + tail == text:
                return num
        return 0

    def _led(self, text: str) -> str:
        """`text` without the format's lead where it is the first."""
        if self._begun or not text:
            return text
        self._begun = True
        return text.removeprefix(self._decoder.reading.lead)


def _spelled(events: Iterable[Event], unsaid: Sequence[str] = ()) -> tuple[Event, ...]:
    """The events with control tokens as they are spelled; those named `unsaid` are left out of thoughts and of text.

    What was to be a call and cannot be read is given back whole: its control tokens show what went wrong.
    """
    found: list[Event] = []
    for event in events:
        if isinstance(event, TextGrown | ThoughtGrown):
            text = event.text
            for name in () if isinstance(event, TextGrown) and event.malformed else unsaid:
                text = text.replace(TAG + name, "")
            event = replace(event, text=text.replace(TAG, ""))
            if not event.text:
                continue
        found.append(event)
    return tuple(found)
