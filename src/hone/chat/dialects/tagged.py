"""JSON between tags, a block a call.

Does not know where a format puts it, nor tokens.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from hone.chat.dialects.dialect import Mark
from hone.chat.dialects.spelling import call_of, json_at, spelled_arguments, spelled_name
from hone.chat.marks import Ink
from hone.chat.message import Part, Text, ToolCall, ToolResult


class Qwen:
    """Hermes-style JSON between <tool_call> tags; Qwen 1.5 to 3."""

    name, bare, reads_lead = "qwen", False, False
    tokens: tuple[str, ...] = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")

    def write(self, calls: Sequence[ToolCall], ink: Ink, after_text: bool) -> str:
        """One block a call."""
        blocks = [
            f'<tool_call>\n{{"name": "{spelled_name(c, ink)}", "arguments": {spelled_arguments(c, ink)}}}\n</tool_call>'
            for c in calls
        ]
        return ("\n" if after_text else "") + "\n".join(blocks)

    def result(self, result: ToolResult) -> str:
        """As it is; the format wraps it."""
        return result.content

    def read(self, text: str, mark: Mark) -> list[Part]:
        """Text and the calls after it."""
        return _tagged(text, mark("<tool_call>"), mark("</tool_call>"), lambda body, start: _json_call(body, start))


def _json_call(text: str, start: int) -> tuple[ToolCall | None, int]:
    value, end = json_at(text, start)
    return call_of(value), end


def _tagged(text: str, opening: str, closing: str, read: Callable[[str, int], tuple[ToolCall | None, int]]) -> list[Part]:
    """Calls between tags; a block that is no call stays in the text with its tags."""
    parts: list[Part] = []
    kept = position = 0
    while (start := text.find(opening, position)) >= 0:
        call, end = read(text, start + len(opening))
        close = re.compile(r"\s*" + re.escape(closing)).match(text, end) if call else None
        if call is None or close is None:
            position = start + len(opening)
            continue
        before = text[kept:start]
        before = before.removesuffix("\n") if not parts else before.strip()
        parts += [Text(before), call] if before else [call]
        kept = position = close.end()
    rest = text[kept:]
    if (rest.strip() if parts else rest) or not parts:
        parts.append(Text(rest))
    return parts
