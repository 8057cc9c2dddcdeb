"""Dialect: what every way of tool calls can do.

Knows no single dialect, nor where a format puts what is written, nor tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from hone.chat.marks import Ink
from hone.chat.message import Part, ToolCall, ToolResult

Mark = Callable[[str], str]
"""What to search for a marker in the text of an answer: a marker that is a control token is found only as that token."""


class Dialect(Protocol):
    """A way of tool calls. bare: calls without text stand without the format's lead; reads_lead: and so
    the lead tells text from calls when reading.

    tokens: the control tokens it uses.

    write: marked text of calls, after_text: something was said before them in the same message.

    read: the parts of what an answer says (thought removed); what is no proper call stays Text, nothing is lost.
    """

    name: str
    bare: bool
    reads_lead: bool
    tokens: tuple[str, ...]

    def write(self, calls: Sequence[ToolCall], ink: Ink, after_text: bool) -> str: ...
    def result(self, result: ToolResult) -> str: ...
    def read(self, text: str, mark: Mark) -> list[Part]: ...
