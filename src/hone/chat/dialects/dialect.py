"""Dialect: what every way of tool calls can do.

Knows no single dialect, nor where a format puts what is written, nor tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from hone.chat.dialects.scan import Scan, Step
from hone.chat.marks import Ink
from hone.chat.message import ToolCall, ToolResult

Mark = Callable[[str], str]
"""What to search for a marker in the text of an answer: a marker that is a control token is found only as that token."""


class Dialect(Protocol):
    """A way of tool calls. bare: calls without text stand without the format's lead; reads_lead: and so
    the lead tells text from calls when reading.

    markers: words with which calls begin; anchored: they may also begin at the very start, without one. closing: the word that
    ends a block of calls which cannot be read, '' for none. loose: a marker alone proves nothing, ordinary text may hold it.
    gap: what is written between text and calls. tokens: the control tokens that offers, calls and results use.
    preamble: words before text that calls follow, '' for the format's own. end: the token that ends a message with calls, where
    it is not the format's. says: words before text that no calls follow, where tools are on offer.

    id_of: the id that the number-th call of a conversation is written with.

    write: marked text of calls, after_text: something was said before them in the same message.

    calls: reads one block of calls from the marker on; raises NoCall where it is none.
    """

    name: str
    bare: bool
    reads_lead: bool
    markers: tuple[str, ...]
    anchored: bool
    closing: str
    loose: bool
    gap: str
    tokens: tuple[str, ...]
    preamble: str
    end: str
    says: str

    def id_of(self, call: ToolCall, number: int) -> str: ...
    def write(self, calls: Sequence[ToolCall], ink: Ink, after_text: bool) -> str: ...
    def result(self, result: ToolResult) -> str: ...
    def calls(self, scan: Scan) -> Step[None]: ...


class Plain:
    """What most dialects have in common; they are made of it."""

    name: str
    bare = reads_lead = anchored = loose = False
    markers: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    closing = gap = preamble = end = says = ""

    def id_of(self, call: ToolCall, number: int) -> str:
        """The call's own."""
        return call.id

    def result(self, result: ToolResult) -> str:
        """As it is; the format puts words around it."""
        return result.content
