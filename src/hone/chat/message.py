"""What is said, by whom: the parts of a message, messages, conversations. Frozen; made by data, chat and the API alike.

Knows no template, no tokenizer and no file format.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

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


Part = Text | Think | ToolCall | ToolResult


@dataclass(frozen=True)
class Message:
    """One contribution to a conversation. train: True or False overrules the run's choice of what is learned."""

    role: Role
    parts: tuple[Part, ...]
    train: bool | None = None

    @property
    def text(self) -> str:
        """The Text parts joined; thoughts, calls and results are not text."""
        return "".join(part.text for part in self.parts if isinstance(part, Text))


@dataclass(frozen=True)
class Conversation:
    """Messages in order (a system message stands where it was said) and the tools on offer, as JSON-schema objects."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = field(default=())


def message(role: Role, text: str, *, train: bool | None = None) -> Message:
    """A plain text message."""
    return Message(role, (Text(text),), train)
