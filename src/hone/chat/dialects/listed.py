"""JSON objects alone or in a list: the whole answer (Llama 3), or after a marker (Mistral to v7, Granite 3, Phi-4-mini, Command).

Does not know where a format puts it, nor tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from hone.chat.dialects.dialect import Plain
from hone.chat.dialects.scan import Scan, Step
from hone.chat.dialects.spelling import dumps, spelled_arguments, spelled_name
from hone.chat.marks import Ink, to_json
from hone.chat.message import ToolCall, ToolResult
from hone.errors import TemplateError


class Llama3(Plain):
    """Llama 3.1's JSON: the whole message is {"name": ..., "parameters": {...}}, a list of such for several calls."""

    name, anchored, loose, markers = "llama3", True, True, ("<|python_tag|>",)
    tokens = ("<|python_tag|>",)

    def write(self, calls: Sequence[ToolCall], ink: Ink, after_text: bool) -> str:
        """Raises TemplateError for text beside calls: this way of calling has no place for it."""
        refuse_text(self.name, after_text)
        written = [f'{{"name": "{spelled_name(call, ink)}", "parameters": {spelled_arguments(call, ink)}}}' for call in calls]
        return written[0] if len(written) == 1 else "[" + ", ".join(written) + "]"

    def result(self, result: ToolResult) -> str:
        """As Llama's template: a string as JSON string."""
        return dumps(result.content)

    def calls(self, scan: Scan) -> Step[None]:
        """The calls, where all the rest is calls; several may also stand with semicolons between them."""
        yield from scan.maybe(*self.markers)
        yield from scan.space()
        between = ",]" if (yield from scan.maybe("[")) else ";"
        found = []
        while True:
            found.append((yield from scan.object(arguments=("parameters", "arguments"), bare=False)))
            yield from scan.space()
            if (yield from scan.maybe(*between)) not in (",", ";"):
                break
        yield from scan.end()
        for call, index in found:
            yield from scan.make(call, index)


def refuse_text(dialect: str, after_text: bool) -> None:
    """Raise TemplateError for text beside calls."""
    if after_text:
        raise TemplateError(f'tool dialect "{dialect}" has no place for text beside a tool call; split the message in two')


class Listed(Plain):
    """A JSON list after a marker. keys: how a call's name and arguments are called; indent: of the list, as `tojson` has it."""

    def __init__(
        self, name: str, opening: str, closing: str = "", *, keys: tuple[str, str] = ("name", "arguments"), indent: int = 0,
        tokens: tuple[str, ...] = (),
    ):  # fmt: skip
        self.name, self.opening, self.ending, self.keys, self.indent = name, opening, closing, keys, indent
        self.markers, self.closing, self.tokens = (opening.rstrip(),), closing, tokens

    def write(self, calls: Sequence[ToolCall], ink: Ink, after_text: bool) -> str:
        """The list, whose items are as `item` makes them."""
        if self.indent:
            items = [dict(zip(self.keys, (call.name, dict(call.arguments)), strict=True)) for call in calls]
            return self.opening + ink.content(to_json(items, indent=self.indent)) + self.ending
        return self.opening + "[" + ", ".join(self.item(call, at, ink) for at, call in enumerate(calls)) + "]" + self.ending

    def item(self, call: ToolCall, at: int, ink: Ink) -> str:
        """A call as JSON object."""
        name, arguments = self.keys
        return f'{{"{name}": "{spelled_name(call, ink)}", "{arguments}": {spelled_arguments(call, ink)}}}'

    def calls(self, scan: Scan) -> Step[None]:
        """Each call as soon as its object ends."""
        yield from scan.word(*self.markers)
        yield from scan.space()
        yield from scan.word("[")
        while True:
            call, index = yield from scan.object(
                *((key,) for key in self.keys), ids="tool_call_id" if "tool" in self.keys[0] else "id"
            )
            yield from scan.make(call, index)
            yield from scan.space()
            if (yield from scan.word(",", "]")) == "]":
                break
        if self.ending:
            yield from scan.space()
            yield from scan.word(self.ending)


MISTRAL = ("[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]")


class Mistral(Listed):
    """Mistral's list after [TOOL_CALLS], each call with an id of nine letters or digits.

    v3 puts a space before the list, but not with the Tekken tokenizer.
    """

    bare = True

    def __init__(self, name: str, opening: str, text: bool):
        super().__init__(name, opening, tokens=(*MISTRAL, "[TOOL_CONTENT]") if text else MISTRAL)
        self.text = text

    def write(self, calls: Sequence[ToolCall], ink: Ink, after_text: bool) -> str:
        """A call without an id of that form gets one made from what it has."""
        refuse_text(self.name, after_text and not self.text)
        return super().write(calls, ink, after_text)

    def id_of(self, call: ToolCall, number: int) -> str:
        """The call's own where it is nine letters or digits."""
        return nine(call.id, number)

    def item(self, call: ToolCall, at: int, ink: Ink) -> str:
        """With its id at the end."""
        return f'{super().item(call, at, ink)[:-1]}, "id": "{ink.content(self.id_of(call, at))}"}}'

    def result(self, result: ToolResult) -> str:
        """In v3 the JSON object of content and call id, where a number stays a number; from v7 on the format puts the id."""
        return result.content if self.text else dumps({"content": _number(result.content), "call_id": nine(result.id, 0)})


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


class CommandA(Listed):
    """Cohere's Command R7B and A: a list between <|START_ACTION|> and <|END_ACTION|>, calls numbered."""

    def __init__(self) -> None:
        results = ("<|START_TOOL_RESULT|>", "<|END_TOOL_RESULT|>")
        actions = ("<|START_ACTION|>", "<|END_ACTION|>")
        super().__init__("command_a", *actions, keys=("tool_name", "parameters"), tokens=(*actions, *results))

    def write(self, calls: Sequence[ToolCall], ink: Ink, after_text: bool) -> str:
        """A line a call; the text before them is the plan."""
        lines = ",\n".join(f"    {self.item(call, at, ink)}" for at, call in enumerate(calls))
        return f"{self.opening}[\n{lines}\n]{self.ending}"

    def id_of(self, call: ToolCall, number: int) -> str:
        """The call's own where it is a number."""
        return call.id if call.id.isdecimal() else str(number)

    def item(self, call: ToolCall, at: int, ink: Ink) -> str:
        """With its number first."""
        return f'{{"tool_call_id": "{ink.content(self.id_of(call, at))}", {super().item(call, at, ink)[1:]}'


class CommandR(Listed):
    """Cohere's Command R: a fenced list under the line "Action:"."""

    loose = True

    def __init__(self) -> None:
        super().__init__("command_r", "Action:\n```json\n", "```", keys=("tool_name", "parameters"))
        self.markers, self.gap = ("Action:\n```json",), "\n"

    def write(self, calls: Sequence[ToolCall], ink: Ink, after_text: bool) -> str:
        """An item of several lines a call."""
        inside = [
            '    {\n        "tool_name": "' + spelled_name(call, ink) + '",\n        "parameters": '
            + (ink.content(to_json(dict(call.arguments), indent=4).replace("\n", "\n        ")) if call.arguments else "{}")
            + "\n    }"
            for call in calls
        ]  # fmt: skip
        return "\n" + self.opening + "[\n" + ",\n".join(inside) + "\n]```\n"


class Hunyuan(Listed):
    """Tencent's Hunyuan A13B: a list between <tool_calls> tags; where there are tools, an answer names who speaks."""

    says = "\u52a9\u624b\uff1a"

    def __init__(self) -> None:
        super().__init__("hunyuan", "<tool_calls>", "</tool_calls>")


LISTED = (
    Llama3(),
    Mistral("mistral", "[TOOL_CALLS] ", text=False),
    Mistral("mistral_tekken", "[TOOL_CALLS]", text=False),
    Mistral("mistral_v7", "[TOOL_CALLS]", text=True),
    Listed("granite3", "<|tool_call|>", indent=4, tokens=("<|tool_call|>",)),
    Listed("phi4_mini", "<|tool_call|>", "<|/tool_call|>", tokens=("<|tool_call|>", "<|/tool_call|>", "<|tool|>", "<|/tool|>")),
    CommandA(),
    CommandR(),
    Hunyuan(),
)
