"""What a format puts around the tools on offer, calls, results and thoughts, found by looking at what the codec renders.

Does not know any format, nor who will write it again. None stands for a format that is not made of such pieces.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hone.chat.codec import Codec
from hone.chat.message import Conversation, Message, Part, Text, Think, ToolCall, ToolResult, message
from hone.errors import TemplateError
from hone.export.template import Around


def _tool(name: str, **properties: Any) -> Mapping[str, Any]:
    told = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": name, "description": "Wdesq", "parameters": told}}


TOOLS = (_tool("weatherq", cityq={"type": "string"}), _tool("timeq"))
CALLS = (ToolCall("weatherq", {"cityq": "Parisq"}), ToolCall("timeq", {"zoneq": 7}))
_ASKED, _AGAIN = message("user", "Qaaq"), message("user", "Qccq")
_SAID, _RULE = message("assistant", "Sbbs"), message("system", "Reer")
_FIRST, _SECOND = (Message("tool", (ToolResult(text),)) for text in ('Sun "q" \\', "Nineq"))
_THOUGHT = Think("Tqqt")


class _Otherwise(Exception):
    """The format is not made of these pieces."""


@dataclass(frozen=True)
class Tools:
    """Before a first question, around the tools' JSON: head, between and tail; rule_head and rule_tail, in place of head, around

    a system prompt. whole: whether what is written of a tool is {"type": ..., "function": ...}, and not the function alone.
    """

    head: str
    between: str
    tail: str
    rule_head: str
    rule_tail: str
    whole: bool


@dataclass(frozen=True)
class Calls:
    """Of an answer's calls: head, name, middle, arguments; next in place of head from the second on; tail behind the last.

    glue: between an answer's words and its calls. result: from what ends an answer to a result; more: from a result to the next;
    to_answer, to_prompt: from the last result.
    """

    head: str
    middle: str
    next: str
    tail: str
    glue: str
    result: str
    more: str
    to_answer: str
    to_prompt: str


@dataclass(frozen=True)
class Thoughts:
    """Around a thought, before an answer's words. always: also of answers before the last question."""

    head: str
    tail: str
    always: bool


def tools_of(codec: Codec) -> Tools | None:
    """The pieces around tools."""
    try:
        alone, whole = _around_tools(codec, (_ASKED,), TOOLS)
        ruled, _ = _around_tools(codec, (_RULE, _ASKED), TOOLS)
        one, _ = _around_tools(codec, (_ASKED,), TOOLS[:1])
        rule_head, rule_tail = _cut(ruled[0], _RULE.text)
    except _Otherwise:
        return None
    head, between, tail = alone
    if ruled[1:] != (between, tail) or one != (head, tail):
        return None
    return Tools(head, between, tail, rule_head, rule_tail, whole)


def _around_tools(codec: Codec, messages: tuple[Message, ...], tools: tuple) -> tuple[tuple[str, ...], bool]:
    rest, pieces, whole = _text(codec, messages, tools=tools), [], False
    for tool in tools:
        whole = json.dumps(tool) in rest
        before, rest = _cut(rest, json.dumps(tool if whole else tool["function"]))
        pieces.append(before)
    tail, _ = _cut(rest, _ASKED.text)
    return (*pieces, tail), whole


def calls_of(codec: Codec, pieces: Around) -> Calls | None:
    """The pieces around calls and results, of a format that ends answers with a token."""
    try:
        return _calls(codec, pieces)
    except _Otherwise:
        return None


def _calls(codec: Codec, pieces: Around) -> Calls:
    start = pieces.to_answer

    def said(*messages: Message, prompt: bool = True) -> str:
        return _cut(_text(codec, (_ASKED, *messages), tools=TOOLS, prompt=prompt), _ASKED.text + start)[1]

    one, two = Message("assistant", CALLS[:1]), Message("assistant", CALLS)
    head, rest = _cut(said(one, _FIRST), CALLS[0].name)
    middle, rest = _cut(rest, json.dumps(CALLS[0].arguments))
    to_result, to_prompt = _cut(rest, _result(_FIRST))
    tail, result = _cut(to_result, pieces.stop) if pieces.stop else _fail()
    first, rest = _cut(said(two, _FIRST, _SECOND), json.dumps(CALLS[0].arguments))
    onward, rest = _cut(rest, CALLS[1].name)
    again, rest = _cut(rest, json.dumps(CALLS[1].arguments))
    end, rest = _cut(rest, _result(_FIRST))
    more, end_prompt = _cut(rest, _result(_SECOND))
    behind = _cut(said(one, _FIRST, _SAID, _AGAIN), _result(_FIRST))[1]
    to_answer, rest = _cut(behind, _SAID.text)
    to_question, _ = _cut(rest, _AGAIN.text)
    glued = _cut(said(Message("assistant", (Text(_SAID.text), *CALLS[:1])), _FIRST), _SAID.text)
    before_call, _ = _cut(glued[1], CALLS[0].name)
    alike = (first, again, end, end_prompt) == (head + CALLS[0].name + middle, middle, to_result, to_prompt)
    if not alike or glued[0] or to_question != pieces.stop + pieces.to_question or not before_call.endswith(head):
        raise _Otherwise
    return Calls(head, middle, onward, tail, before_call.removesuffix(head), result, more, to_answer, to_prompt)


def thoughts_of(codec: Codec, pieces: Around) -> Thoughts | None:
    """The pieces around a thought that stands in the last answer, and whether earlier answers keep theirs."""
    parts: tuple[Part, ...] = (_THOUGHT, Text(_SAID.text))
    try:
        text = _cut(_text(codec, (_ASKED, Message("assistant", parts)), prompt=False), _ASKED.text + pieces.to_answer)[1]
        head, rest = _cut(text, _THOUGHT.text)
        tail, _ = _cut(rest, _SAID.text)
    except _Otherwise:
        return None
    earlier = _text(codec, (_ASKED, Message("assistant", parts), _AGAIN))
    return Thoughts(head, tail, always=head + _THOUGHT.text + tail + _SAID.text in earlier)


def _result(one: Message) -> str:
    return one.parts[0].content  # type: ignore[union-attr]


def _text(codec: Codec, messages: tuple[Message, ...], *, tools: tuple = (), prompt: bool = True) -> str:
    try:
        return codec.template.render(Conversation(messages, tools), prompt=prompt).text
    except TemplateError as fault:  # it has no tools
        raise _Otherwise from fault


def _cut(text: str, at: str) -> tuple[str, str]:
    before, found, after = text.partition(at)
    return (before, after) if found else _fail()


def _fail() -> Any:
    raise _Otherwise
