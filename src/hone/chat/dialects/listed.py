"""JSON objects alone or in a list, the whole answer or after a marker.

Does not know where a format puts it, nor tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from hone.chat.dialects.dialect import Mark
from hone.chat.dialects.spelling import call_of, dumps, json_at, spelled_arguments, spelled_name
from hone.chat.marks import Ink
from hone.chat.message import Part, Text, ToolCall, ToolResult
from hone.errors import TemplateError


class Llama3:
    """Llama 3.1's JSON: the whole message is {"name": ..., "parameters": {...}}, a list of such for several calls."""

    name, bare, reads_lead = "llama3", False, False
    tokens: tuple[str, ...] = ("<|eom_id|>", "<|python_tag|>")

    def write(self, calls: Sequence[ToolCall], ink: Ink, after_text: bool) -> str:
        """Raises TemplateError for text beside calls: this way of calling has no place for it."""
        if after_text:
            raise TemplateError('tool dialect "llama3" has no place for text beside a tool call; split the message in two')
        written = [f'{{"name": "{spelled_name(call, ink)}", "parameters": {spelled_arguments(call, ink)}}}' for call in calls]
        return written[0] if len(written) == 1 else "[" + ", ".join(written) + "]"

    def result(self, result: ToolResult) -> str:
        """As Llama's template: a string as JSON string."""
        return dumps(result.content)

    def read(self, text: str, mark: Mark) -> list[Part]:
        """The calls, where the whole text is calls."""
        body = text.removeprefix(mark("<|python_tag|>")).strip()
        value, end = json_at(body, 0)
        values = value if isinstance(value, list) else [value]
        calls = [call_of(item, ("parameters", "arguments")) for item in values]
        if end < len(body) or not calls or None in calls:
            return [Text(text)]
        return [call for call in calls if call]


class Mistral:
    """Mistral's JSON list after [TOOL_CALLS], each call with an id of nine letters or digits."""

    name, bare, reads_lead = "mistral", True, False
    tokens: tuple[str, ...] = ("[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]")

    def write(self, calls: Sequence[ToolCall], ink: Ink, after_text: bool) -> str:
        """A call without an id of that form gets one made from what it has."""
        if after_text:
            raise TemplateError('tool dialect "mistral" has no place for text beside a tool call; split the message in two')
        written = [
            f'{{"name": "{spelled_name(call, ink)}", "arguments": {spelled_arguments(call, ink)}, '
            f'"id": "{ink.content(nine(call.id, index))}"}}'
            for index, call in enumerate(calls)
        ]
        return "[TOOL_CALLS] [" + ", ".join(written) + "]"

    def result(self, result: ToolResult) -> str:
        """The JSON object of content and call id; a number stays a number."""
        return dumps({"content": _number(result.content), "call_id": nine(result.id, 0)})

    def read(self, text: str, mark: Mark) -> list[Part]:
        """Text and the calls after it."""
        before, found, after = text.partition(mark("[TOOL_CALLS]"))
        value, end = json_at(after, 0)
        calls = [call_of(item) for item in value] if isinstance(value, list) else []
        if not found or not calls or None in calls or after[end:].strip():
            return [Text(text)]
        return [*([Text(before)] if before.strip() else []), *(call for call in calls if call)]


def nine(identity: str, index: int) -> str:
    """`identity` where it is nine letters or digits, else nine made from it and the call's place among its siblings."""
    if len(identity) == 9 and identity.isascii() and identity.isalnum():
        return identity
    return hashlib.sha256(identity.encode()).hexdigest()[:9] if identity else f"call{index:05d}"


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            continue
        if str(value) == text:
            return value
    return text
