"""Events: what an answer in the making says, piece by piece, and the parts they come to.

Know no dialect and no tokens. Joined, the events of an answer are its message: `parts_of(events)`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hone.chat.message import Part, Text, Think, ToolCall


@dataclass(frozen=True)
class TextGrown:
    """Further words for the reader; malformed: they are of a call that could not be read."""

    text: str
    malformed: bool = False


@dataclass(frozen=True)
class ThoughtGrown:
    """Further words of the thought."""

    text: str


@dataclass(frozen=True)
class CallBegun:
    """A call of `name` begins; index: the how many-th it is. id: '' where it is not said, or only later."""

    index: int
    name: str
    id: str = ""


@dataclass(frozen=True)
class ArgumentsGrown:
    """A further piece of the arguments' JSON text; the pieces of a call joined are a JSON object."""

    index: int
    text: str


@dataclass(frozen=True)
class CallMade:
    """The call is complete."""

    index: int
    call: ToolCall


@dataclass(frozen=True)
class CallDropped:
    """What had begun as a call is none; the text it was made of follows as malformed text."""

    index: int


Event = TextGrown | ThoughtGrown | CallBegun | ArgumentsGrown | CallMade | CallDropped


def parts_of(events: Iterable[Event]) -> tuple[Part, ...]:
    """The parts that all events of an answer come to."""
    found: list[Part] = []
    for event in events:
        if isinstance(event, CallMade):
            found.append(event.call)
        elif isinstance(event, TextGrown | ThoughtGrown):
            new: Part = Think(event.text) if isinstance(event, ThoughtGrown) else Text(event.text, event.malformed)
            _append(found, new)
    return tuple(found)


def _append(found: list[Part], new: Text | Think) -> None:
    last = found[-1] if found else None
    if isinstance(last, Think) and isinstance(new, Think):
        found[-1] = Think(last.text + new.text)
    elif isinstance(last, Text) and isinstance(new, Text) and last.malformed == new.malformed:
        found[-1] = Text(last.text + new.text, new.malformed)
    elif new.text:
        found.append(new)
