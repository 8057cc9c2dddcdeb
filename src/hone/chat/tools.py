"""Dialects of tools: how the tools on offer, calls and results are written, and how calls are read back.

Does not know where a format puts them, nor tokens. Prompts are Jinja files in formats/tools.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from hone.chat.marks import Ink, at, environment, run
from hone.chat.message import Part, Text, ToolCall, ToolResult
from hone.chat.table import FORMATS
from hone.errors import TemplateError
from hone.table import nearest

Mark = Callable[[str], str]
"""What to search for a marker in the text of an answer: a marker that is a control token is found only as that token."""

_DECODER = json.JSONDecoder()


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


def prompt(dialect: str, tools: Sequence[Mapping[str, Any]], ink: Ink) -> str:
    """The marked text that offers `tools`, each an OpenAI function schema with or without its wrapper; '' for none."""
    if not tools:
        return ""
    wrapped = [dict(tool) if "function" in tool else {"type": "function", "function": dict(tool)} for tool in tools]
    for index, tool in enumerate(wrapped):
        if not isinstance(tool["function"], Mapping) or not isinstance(tool["function"].get("name"), str):
            raise TemplateError(
                f'tools[{index}] must be {{"type": "function", "function": {{"name": "...", ...}}}}, not {tool!r:.120}'
            )
    template = environment().from_string((FORMATS / "tools" / f"{dialect}.jinja").read_text(encoding="utf-8"))
    return run(template, f"tools/{dialect}", tools=wrapped, write=ink.content, at=at)


def dumps(value: Any) -> str:
    """JSON as Hugging Face's templates write it."""
    return json.dumps(value, ensure_ascii=False)


def _name(call: ToolCall, ink: Ink) -> str:
    return ink.content(dumps(call.name)[1:-1])


def _arguments(call: ToolCall, ink: Ink) -> str:
    return ink.content(dumps(dict(call.arguments)))


def call_of(value: Any, keys: tuple[str, ...] = ("arguments", "parameters")) -> ToolCall | None:
    """The call a decoded JSON value says, or None."""
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not value["name"]:
        return None
    arguments = next((value[key] for key in keys if key in value), {})
    identity = value.get("id", "")
    return (
        ToolCall(value["name"], arguments, identity if isinstance(identity, str) else "") if isinstance(arguments, dict) else None
    )


def _json_at(text: str, start: int) -> tuple[Any, int]:
    """The JSON value that starts at `start` (white space before it allowed) and where it ends; (None, start) for none."""
    while start < len(text) and text[start].isspace():
        start += 1
    try:
        return _DECODER.raw_decode(text, start)
    except (json.JSONDecodeError, RecursionError):
        return None, start


class Qwen:
    """Hermes-style JSON between <tool_call> tags; Qwen 1.5 to 3."""

    name, bare, reads_lead = "qwen", False, False
    tokens: tuple[str, ...] = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")

    def write(self, calls: Sequence[ToolCall], ink: Ink, after_text: bool) -> str:
        """One block a call."""
        blocks = [f'<tool_call>\n{{"name": "{_name(c, ink)}", "arguments": {_arguments(c, ink)}}}\n</tool_call>' for c in calls]
        return ("\n" if after_text else "") + "\n".join(blocks)

    def result(self, result: ToolResult) -> str:
        """As it is; the format wraps it."""
        return result.content

    def read(self, text: str, mark: Mark) -> list[Part]:
        """Text and the calls after it."""
        return _tagged(text, mark("<tool_call>"), mark("</tool_call>"), lambda body, start: _json_call(body, start))


def _json_call(text: str, start: int) -> tuple[ToolCall | None, int]:
    value, end = _json_at(text, start)
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


class Llama3:
    """Llama 3.1's JSON: the whole message is {"name": ..., "parameters": {...}}, a list of such for several calls."""

    name, bare, reads_lead = "llama3", False, False
    tokens: tuple[str, ...] = ("<|eom_id|>", "<|python_tag|>")

    def write(self, calls: Sequence[ToolCall], ink: Ink, after_text: bool) -> str:
        """Raises TemplateError for text beside calls: this way of calling has no place for it."""
        if after_text:
            raise TemplateError('tool dialect "llama3" has no place for text beside a tool call; split the message in two')
        written = [f'{{"name": "{_name(call, ink)}", "parameters": {_arguments(call, ink)}}}' for call in calls]
        return written[0] if len(written) == 1 else "[" + ", ".join(written) + "]"

    def result(self, result: ToolResult) -> str:
        """As Llama's template: a string as JSON string."""
        return dumps(result.content)

    def read(self, text: str, mark: Mark) -> list[Part]:
        """The calls, where the whole text is calls."""
        body = text.removeprefix(mark("<|python_tag|>")).strip()
        value, end = _json_at(body, 0)
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
            f'{{"name": "{_name(call, ink)}", "arguments": {_arguments(call, ink)}, "id": "{ink.content(nine(call.id, index))}"}}'
            for index, call in enumerate(calls)
        ]
        return "[TOOL_CALLS] [" + ", ".join(written) + "]"

    def result(self, result: ToolResult) -> str:
        """The JSON object of content and call id; a number stays a number."""
        return dumps({"content": _number(result.content), "call_id": nine(result.id, 0)})

    def read(self, text: str, mark: Mark) -> list[Part]:
        """Text and the calls after it."""
        before, found, after = text.partition(mark("[TOOL_CALLS]"))
        value, end = _json_at(after, 0)
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


class Glm4:
    """GLM-4: the function's name on the header's line and JSON below; each call under a header of its own."""

    name, bare, reads_lead = "glm4", True, True
    tokens: tuple[str, ...] = ("<|assistant|>", "<|observation|>")

    def write(self, calls: Sequence[ToolCall], ink: Ink, after_text: bool) -> str:
        """Text, where there is any, stands under the first header."""
        written = [f"{_name(call, ink)}\n{_arguments(call, ink)}" for call in calls]
        return ("<|assistant|>" if after_text else "") + "<|assistant|>".join(written)

    def result(self, result: ToolResult) -> str:
        """As it is."""
        return result.content

    def read(self, text: str, mark: Mark) -> list[Part]:
        """A section that begins with a line break is text; one that is a name, a line break and JSON is a call."""
        parts: list[Part] = []
        for section in text.split(mark("<|assistant|>")):
            name, _, rest = section.partition("\n")
            value, end = _json_at(rest, 0)
            is_call = name.strip() and isinstance(value, dict) and not rest[end:].strip()
            new: Part = ToolCall(_unescaped(name.strip()), value) if is_call else Text(section.removeprefix("\n"))
            parts.append(new)
        return [part for part in parts if part != Text("")] or [Text("")]


def _unescaped(name: str) -> str:
    try:
        return json.loads(f'"{name}"')
    except json.JSONDecodeError:
        return name


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
            f"{self.call_begin}function{self.sep}{_name(call, ink)}\n```json\n{_arguments(call, ink)}\n```{self.call_end}"
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
            value, stop = _json_at(block, head.end()) if head else (None, 0)
            if not head or not isinstance(value, dict) or not block[stop:].startswith("\n```" + mark(self.call_end)):
                return [Text(text)]
            calls.append(ToolCall(_unescaped(head[1]), value))
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
        written = [f"Action: {_name(call, ink)}\nAction Input: {_arguments(call, ink)}" for call in calls]
        return ("\n" if after_text else "") + "\n".join(written)

    def result(self, result: ToolResult) -> str:
        """As it is."""
        return result.content

    def read(self, text: str, mark: Mark) -> list[Part]:
        """Text and the calls after it."""
        parts: list[Part] = []
        kept = position = 0
        while head := self._ACTION.search(text, position):
            value, end = _json_at(text, head.end())
            if not isinstance(value, dict):
                position = head.end()
                continue
            before = text[kept : head.start()]
            parts += [Text(before)] if before and (not parts or before.strip()) else []
            parts.append(ToolCall(_unescaped(head[1].strip()), value))
            kept = position = end
        rest = text[kept:]
        return parts if parts and not rest.strip() else [*parts, Text(rest)]


DIALECTS: dict[str, Dialect] = {made.name: made for made in (React(), Qwen(), Llama3(), Mistral(), Glm4(), DeepSeek3())}


def find_dialect(name: str) -> Dialect:
    """The dialect `name`; raises TemplateError with the nearest one and the list."""
    if name not in DIALECTS:
        raise TemplateError(f'unknown tool_format "{name}"{nearest(name, list(DIALECTS))}; known: {", ".join(sorted(DIALECTS))}')
    return DIALECTS[name]
