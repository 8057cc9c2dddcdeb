"""What is said, by whom: the parts of a message, messages, conversations. Frozen; made by data, chat and the API alike.

Knows no template, no tokenizer and no file format.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, ClassVar, Literal

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True)
class Text:
    """Words for the reader. malformed: they were read where a tool call was expected, and are none."""

    text: str
    malformed: bool = False


@dataclass(frozen=True)
class Think:
    """Words the assistant says to itself before it answers."""

    text: str


@dataclass(frozen=True)
class ToolCall:
    """A function the assistant asks for; `arguments` is the decoded JSON object."""

    name: str
    arguments: Mapping[str, Any]
    id: str = ""


@dataclass(frozen=True)
class ToolResult:
    """What a function gave back, as text; `name` and `id` tell which call it answers, where the source says so."""

    content: str
    name: str = ""
    id: str = ""


Source = bytes | PurePath
"""A file of a picture, a sound or a film: what is in it, as it was given, or where it lies."""


@dataclass(frozen=True)
class Image:
    """A picture to look at, in a file of any common form."""

    kind: ClassVar[str] = "image"
    source: Source


@dataclass(frozen=True)
class Video:
    """A film to look at."""

    kind: ClassVar[str] = "video"
    source: Source


@dataclass(frozen=True)
class Audio:
    """A sound to listen to."""

    kind: ClassVar[str] = "audio"
    source: Source


Media = Image | Video | Audio
MEDIA: Mapping[str, type[Media]] = {one.kind: one for one in (Image, Video, Audio)}
"""The part of each kind."""
_MEDIA = tuple(MEDIA.values())
Part = Text | Think | ToolCall | ToolResult | Media


@dataclass(frozen=True)
class Message:
    """One contribution to a conversation. train: True or False overrules the run's choice of what is learned."""

    role: Role
    parts: tuple[Part, ...]
    train: bool | None = None

    @property
    def text(self) -> str:
        """The Text parts joined; thoughts, calls, results and media are not text."""
        return "".join([part.text for part in self.parts if isinstance(part, Text)])

    @property
    def media(self) -> tuple[Media, ...]:
        """Its pictures, films and sounds, in order."""
        return tuple([part for part in self.parts if isinstance(part, _MEDIA)])


@dataclass(frozen=True)
class Conversation:
    """Messages in order (a system message stands where it was said) and the tools on offer, as JSON-schema objects."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = field(default=())

    @property
    def media(self) -> tuple[Media, ...]:
        """The pictures, films and sounds of all messages, in order."""
        return tuple([part for one in self.messages for part in one.parts if isinstance(part, _MEDIA)])


def message(role: Role, text: str, *, train: bool | None = None) -> Message:
    """A plain text message."""
    return Message(role, (Text(text),), train)
