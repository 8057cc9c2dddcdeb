"""Ending: where an answer ends before the model does: at a stop text, or after its first call.

Knows no tokens and no engine; it takes events and gives those that are certain.
"""

from __future__ import annotations

from collections.abc import Iterable

from hone.chat.dialects.reader import overlap
from hone.chat.events import CallMade, Event, TextGrown


class Ending:
    """`feed(events)` gives the events that surely come before the end, `close()` the rest; `ended` once the end is reached.

    stop: texts that end the answer, none of them ''. They are sought in what is said to the reader, not in thoughts or calls, and
    the answer ends before the one that is complete first. one_call: the answer ends with its first call. fed, given: characters
    of text taken and given so far.
    """

    def __init__(self, stop: tuple[str, ...] = (), *, one_call: bool = False):
        assert all(stop), "an empty stop text"
        self._stop, self._one_call = stop, one_call
        self._held: list[TextGrown] = []
        self.ended = False
        self.fed = self.given = 0

    def feed(self, events: Iterable[Event]) -> list[Event]:
        """Take further events; what follows the end counts for nothing."""
        found: list[Event] = []
        for event in events:
            if self.ended:
                break
            if isinstance(event, TextGrown):
                self.fed += len(event.text)
                self._held.append(event)
                found += self._certain()
            else:
                found += [*self.close(), event]
                self.ended = self._one_call and isinstance(event, CallMade)
        return found

    def close(self) -> list[Event]:
        """What was held back: no stop text follows."""
        return self._give(sum(len(event.text) for event in self._held))

    def _certain(self) -> list[Event]:
        """The held text before a stop text, or before what may become one."""
        text = "".join(event.text for event in self._held)
        ends = [(place + len(word), place) for word in self._stop if (place := text.find(word)) >= 0]
        if ends:
            self.ended = True
            given = self._give(min(ends)[1])
            self._held = []
            return given
        may_begin = max((overlap(text, word) for word in self._stop), default=0)
        return self._give(len(text) - may_begin)

    def _give(self, number: int) -> list[Event]:
        """The first `number` characters of the held text."""
        found: list[Event] = []
        self.given += number
        while self._held and number >= 0:
            first = self._held[0]
            if len(first.text) > number:
                self._held[0] = TextGrown(first.text[number:], first.malformed)
                if number:
                    found.append(TextGrown(first.text[:number], first.malformed))
                break
            found.append(self._held.pop(0))
            number -= len(first.text)
        return found
