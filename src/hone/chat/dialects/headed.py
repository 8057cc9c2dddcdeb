"""The function's name on a line of its own and its arguments as JSON below.

Does not know where a format puts it, nor tokens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from hone.chat.dialects.dialect import Mark
from hone.chat.dialects.spelling import json_at, read_name, spelled_arguments, spelled_name
from hone.chat.marks import Ink
from hone.chat.message import Part, Text, ToolCall, ToolResult


class Glm4:
    """GLM-4: the function's name on the header's line and JSON below; each call under a header of its own."""

    name, bare, reads_lead = "glm4", True, True
    tokens: tuple[str, ...] = ("<|assistant|>", "<|observation|>")

    def write(self, calls: Sequence[ToolCall], ink: Ink, after_text: bool) -> str:
        """Text, where there is any, stands under the first header."""
        written = [f"{spelled_name(call, ink)}\n{spelled_arguments(call, ink)}" for call in calls]
        return ("<|assistant|>" if after_text else "") + "<|assistant|>".join(written)

    def result(self, result: ToolResult) -> str:
        """As it is."""
        return result.content

    def read(self, text: str, mark: Mark) -> list[Part]:
        """A section that begins with a line break is text; one that is a name, a line break and JSON is a call."""
        parts: list[Part] = []
        for section in text.split(mark("<|assistant|>")):
            name, _, rest = section.partition("\n")
            value, end = json_at(rest, 0)
            is_call = name.strip() and isinstance(value, dict) and not rest[end:].strip()
            new: Part = ToolCall(read_name(name.strip()), value) if is_call else Text(section.removeprefix("\n"))
            parts.append(new)
        return [part for part in parts if part != Text("")] or [Text("")]


class DeepSeek3:
    """DeepSeek V3 and R1: a fenced JSON block a call, between tokens of their own."""

    name, bare, reads_lead = "deepseek3", False, False
    begin, end = "<\uff5ctool\u2581calls\u2581begin\uff5c>", "<\uff5ctool\u2581calls\u2581end\uff5c>"
    call_begin, call_end = "<\uff5ctool\u2581call\u2581begin\uff5c>", "<\uff5ctool\u2581call\u2581end\uff5c>"
    sep = "<\uff5ctool\u2581sep\uff5c>"
    outputs = tuple(
        f"<\uff5ctool\u2581output{word}\uff5c>" for word in ("s\u2581begin", "s\u2581end", "\u2581begin", "\u2581end")
    )
    tokens: tuple[str, ...] = (begin, end, call_begin, call_end, sep, *outputs)

    def write(self, calls: Sequence[ToolCall], ink: Ink, after_text: bool) -> str:
        """All calls between one pair of tokens."""
        written = [
            f"{self.call_begin}function{self.sep}{spelled_name(call, ink)}\n"
            f"```json\n{spelled_arguments(call, ink)}\n```{self.call_end}"
            for call in calls
        ]
        return self.begin + "\n".join(written) + self.end

    def result(self, result: ToolResult) -> str:
        """As it is."""
        return result.content

    def read(self, text: str, mark: Mark) -> list[Part]:
        """Text and the calls after it."""
        before, found, after = text.partition(mark(self.begin))
        calls: list[Part] = []
        for block in after.split(mark(self.call_begin))[1:]:
            head = re.match(r"function" + re.escape(mark(self.sep)) + r"([^\n]*)\n```json\n", block)
            value, stop = json_at(block, head.end()) if head else (None, 0)
            if not head or not isinstance(value, dict) or not block[stop:].startswith("\n```" + mark(self.call_end)):
                return [Text(text)]
            calls.append(ToolCall(read_name(head[1]), value))
        if not found or not calls:
            return [Text(text)]
        return [*([Text(before)] if before else []), *calls]


class React:
    """Plain text, for models without a way of their own: Action and Action Input lines."""

    name, bare, reads_lead = "default", False, False
    tokens: tuple[str, ...] = ()
    _ACTION = re.compile(r"(?:^|\n)Action: ([^\n]+)\nAction Input:")

    def write(self, calls: Sequence[ToolCall], ink: Ink, after_text: bool) -> str:
        """Two lines a call."""
        written = [f"Action: {spelled_name(call, ink)}\nAction Input: {spelled_arguments(call, ink)}" for call in calls]
        return ("\n" if after_text else "") + "\n".join(written)

    def result(self, result: ToolResult) -> str:
        """As it is."""
        return result.content

    def read(self, text: str, mark: Mark) -> list[Part]:
        """Text and the calls after it."""
        parts: list[Part] = []
        kept = position = 0
        while head := self._ACTION.search(text, position):
            value, end = json_at(text, head.end())
            if not isinstance(value, dict):
                position = head.end()
                continue
            before = text[kept : head.start()]
            parts += [Text(before)] if before and (not parts or before.strip()) else []
            parts.append(ToolCall(read_name(head[1].strip()), value))
            kept = position = end
        rest = text[kept:]
        return parts if parts and not rest.strip() else [*parts, Text(rest)]
