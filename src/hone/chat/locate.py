"""Where in a foreign template's rendering the texts of a conversation stand, so that they stay text.

Does not know tokens or templates: it renders a second time with stand-ins and compares.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hone.chat.message import Conversation, Message, Part, Text, Think, ToolCall, ToolResult
from hone.errors import TemplateError


@dataclass(frozen=True)
class Span:
    """[start, end) in the rendered text, written by message `message`."""

    start: int
    end: int
    message: int


def locate(
    text: str, conversation: Conversation, render: Callable[[Conversation], str], controls: frozenset[str], name: str
) -> list[Span]:
    """The spans of what was written, in order.

    Raises TemplateError where the template leaves something out (thoughts apart), and where something written spells a control
    token and its place is not certain.
    """
    _check_tools(text, conversation, render, name)
    spans = _by_stand_ins(text, conversation, render)
    loose = list(_structured(conversation))
    if spans is not None:
        _check_complete(spans, conversation, name)
    else:
        spans = _by_search(text, conversation)
        loose += [words for _, words in _written(conversation)]
    for words in loose:
        found = next((control for control in controls if control in words), "")
        if found:
            raise TemplateError(
                f"template {name}: a text of this conversation spells the control token {found!r}, and the template writes it "
                "in a way that cannot be told from its own; name a template (template: NAME) or take the token out of the text"
            )
    return spans


def _check_tools(text: str, conversation: Conversation, render: Callable[[Conversation], str], name: str) -> None:
    calls = [part.name for one in conversation.messages for part in one.parts if isinstance(part, ToolCall)]
    missing = next((called for called in calls if called not in text), "")
    if missing or (conversation.tools and _without_tools(conversation, render) == text):
        what = f"the call of {missing!r}" if missing else "the list of tools"
        raise TemplateError(f"template {name} has no place for tools: it leaves out {what}; name a template (template: NAME)")


def _without_tools(conversation: Conversation, render: Callable[[Conversation], str]) -> str:
    try:
        return render(replace(conversation, tools=()))
    except TemplateError:
        return ""


def _check_complete(spans: list[Span], conversation: Conversation, name: str) -> None:
    shown = {span.message for span in spans}
    for index, one in enumerate(conversation.messages):
        written = any(isinstance(part, Text) and part.text.strip() for part in one.parts)
        written |= any(isinstance(part, ToolResult) and part.content.strip() for part in one.parts)
        if written and index not in shown:
            raise TemplateError(
                f"template {name} leaves out what message {index} ({one.role}) says; name a template that has a place for it "
                "(template: NAME)"
            )


def _by_stand_ins(text: str, conversation: Conversation, render: Callable[[Conversation], str]) -> list[Span] | None:
    """Render with a stand-in for every text and read off where the texts must be; None where that gives another rendering."""
    stem = "Zq7"
    while stem in text:
        stem += "x7"
    masked, cores = _masked(conversation, stem)
    try:
        skeleton = render(masked)
    except TemplateError:
        return None
    spans: list[Span] = []
    position = 0
    for number, piece in enumerate(re.split(f"{stem}k([0-9]+)e", skeleton)):
        if number % 2 == 0:
            if not text.startswith(piece, position):
                return None
            position += len(piece)
            continue
        index, core = cores[int(piece)]
        form = next(
            (form for form in (core, json.dumps(core, ensure_ascii=False)[1:-1]) if text.startswith(form, position)), None
        )
        if form is None:
            return None
        spans.append(Span(position, position + len(form), index))
        position += len(form)
    return spans if position == len(text) else None


def _masked(conversation: Conversation, stem: str) -> tuple[Conversation, list[tuple[int, str]]]:
    cores: list[tuple[int, str]] = []

    def masked(index: int, words: str) -> str:
        core = words.strip()
        if not core:
            return words
        cores.append((index, core))
        return words.replace(core, f"{stem}k{len(cores) - 1}e", 1)

    def part(index: int, one: Part) -> Part:
        if isinstance(one, Text | Think):
            return replace(one, text=masked(index, one.text))
        return replace(one, content=masked(index, one.content)) if isinstance(one, ToolResult) else one

    def whole(index: int, one: Message) -> Message:
        return replace(one, parts=tuple(part(index, p) for p in one.parts))

    return replace(conversation, messages=tuple(whole(i, one) for i, one in enumerate(conversation.messages))), cores


def _by_search(text: str, conversation: Conversation) -> list[Span]:
    """Each text where it is found next; those changed beyond recognition are left out."""
    spans: list[Span] = []
    position = 0
    for index, words in _written(conversation):
        core = words.strip()
        start = text.find(core, position) if core else -1
        if start >= 0:
            position = start + len(core)
            spans.append(Span(start, position, index))
    return spans


def _written(conversation: Conversation) -> Iterator[tuple[int, str]]:
    for index, one in enumerate(conversation.messages):
        for part in one.parts:
            if isinstance(part, Text | Think):
                yield index, part.text
            elif isinstance(part, ToolResult):
                yield index, part.content


def _structured(conversation: Conversation) -> Iterator[str]:
    """Strings inside tools, calls and names, which templates write in forms of their own."""
    yield from _strings(conversation.tools)
    for one in conversation.messages:
        for part in one.parts:
            if isinstance(part, ToolCall):
                yield from (part.name, part.id)
                yield from _strings(part.arguments)
            elif isinstance(part, ToolResult):
                yield from (part.name, part.id)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _strings(key)
            yield from _strings(inner)
    elif isinstance(value, Sequence):
        for inner in value:
            yield from _strings(inner)
