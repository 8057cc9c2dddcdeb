"""Calls in a notation of their own: Python's (LFM2, ChatGLM3, MiniCPM4), Gemma 4's.

Does not know where a format puts it, nor tokens.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from hone.chat.dialects.dialect import Plain
from hone.chat.dialects.listed import refuse_text
from hone.chat.dialects.scan import TAG, NoCall, Scan, Step
from hone.chat.dialects.spelling import bare, bare_name, dumps, read_literal
from hone.chat.marks import Ink
from hone.chat.message import ToolCall
from hone.errors import TemplateError

_LONGEST = 1024
"""Characters of a function's or an argument's name."""


class Lfm2(Plain):
    """LFM2: a list of Python calls, `[f(a='x', b=1), g()]`.

    Strings stand in single quotes as they are; a backslash or a single quote in one is escaped, as Python reads it.
    """

    name, markers, closing = "lfm2", ("<|tool_call_start|>",), "<|tool_call_end|>"
    tokens = (*markers, closing, *(f"<|tool_{what}_{end}|>" for what in ("list", "response") for end in ("start", "end")))

    def write(self, calls: Sequence[ToolCall], ink: Ink, after_text: bool) -> str:
        """Objects as JSON, all else as Python writes it."""
        written = []
        for call in calls:
            written.append(f"{bare_name(call, ink, self.name, '(),[]')}({_keywords(call, ink, self.name, _python, ', ')})")
        return f"{self.markers[0]}[{', '.join(written)}]{self.closing}"

    def calls(self, scan: Scan) -> Step[None]:
        """Each call as soon as its bracket closes."""
        yield from scan.word(*self.markers)
        yield from scan.space()
        yield from scan.word("[")
        while True:
            yield from scan.space()
            yield from _call(scan)
            yield from scan.space()
            if (yield from scan.word(",", "]")) == "]":
                break
        yield from scan.space()
        yield from scan.word(self.closing)


def _call(scan: Scan) -> Step[None]:
    """name(argument=value, ...), to its closing bracket."""
    name, _ = yield from scan.upto(re.compile(r"\("), _LONGEST)
    name = _checked(name)
    index = yield from scan.begin(name)
    arguments = yield from _arguments(scan, index)
    yield from scan.finish(index, name, arguments)


def _arguments(scan: Scan, index: int) -> Step[dict[str, Any]]:
    """The keyword arguments of a Python call, from behind its opening bracket to behind the closing one."""
    arguments: dict[str, Any] = {}
    yield from scan.space()
    end = yield from scan.maybe(")")
    while not end:
        key, _ = yield from scan.upto(re.compile("="), _LONGEST)
        text = yield from scan.span({"'": True, '"': True}, ",)")
        yield from scan.argument(index, arguments, _checked(key), read_literal(text.replace(TAG, "")))
        if (yield from scan.word(",", ")")) == ")":
            break
        yield from scan.space()
    return arguments


class ChatGlm3(Plain):
    """ChatGLM3: the function's name on the header's line, below it a fenced line `tool_call(a='x')`; a header a call."""

    name, bare, reads_lead, anchored, loose = "chatglm3", True, True, True, True
    markers, tokens = ("<|assistant|>",), ("<|assistant|>", "<|observation|>")

    def write(self, calls: Sequence[ToolCall], ink: Ink, after_text: bool) -> str:
        """Values as Python's `repr`; text, where there is any, stands under the first header."""
        written = [
            f"{bare_name(call, ink, self.name, '')}\n ```python\ntool_call({_keywords(call, ink, self.name, repr, ', ')})\n```"
            for call in calls
        ]
        return (self.markers[0] if after_text else "") + self.markers[0].join(written)

    def calls(self, scan: Scan) -> Step[None]:
        """A section that begins with a line break is text."""
        yield from scan.maybe(*self.markers)
        if (yield from scan.maybe("\n")):
            yield from scan.maybe(" ")
            return
        name, _ = yield from scan.upto(re.compile("\n"), _LONGEST)
        name = _checked(name)
        yield from scan.space()
        yield from scan.word("```python")
        yield from scan.space()
        yield from scan.word("tool_call(")
        index = yield from scan.begin(name)
        arguments = yield from _arguments(scan, index)
        yield from scan.space()
        yield from scan.word("```")
        yield from scan.space()
        if scan.at < len(scan.text):
            before = scan.at
            yield from scan.word(*self.markers)
            scan.at = before
        yield from scan.finish(index, name, arguments)


class MiniCpm(Plain):
    """MiniCPM 3 and 4: a fenced block of Python calls, a line each, values as JSON; what is said comes behind it."""

    name, markers, closing = "minicpm4", ("<|tool_call_start|>",), "<|tool_call_end|>"

    def write(self, calls: Sequence[ToolCall], ink: Ink, after_text: bool) -> str:
        """Raises TemplateError for text beside calls: it would not stand where it was said."""
        refuse_text(self.name, after_text)
        lines = [f"{bare_name(call, ink, self.name, '(`')}({_keywords(call, ink, self.name, dumps, ',')})\n" for call in calls]
        return f"{self.markers[0]}\n```python\n{''.join(lines)}```\n{self.closing}\n"

    def calls(self, scan: Scan) -> Step[None]:
        """Each call as soon as its bracket closes."""
        yield from scan.word(*self.markers)
        yield from scan.space()
        yield from scan.word("```python")
        yield from scan.space()
        while True:
            yield from _call(scan)
            yield from scan.space()
            if (yield from scan.maybe("```")):
                break
        yield from scan.space()
        yield from scan.word(self.closing)


def _keywords(call: ToolCall, ink: Ink, dialect: str, spell: Callable[[Any], str], comma: str) -> str:
    """The arguments of a Python call."""
    said = [
        f"{ink.content(bare(key, dialect, _WHAT, '=,() ' + _BREAKS))}={ink.content(spell(value))}"
        for key, value in call.arguments.items()
    ]
    return comma.join(said)


_WHAT, _BREAKS = "an argument's name", "\t\r\n"


def _checked(name: str) -> str:
    name = name.strip().replace(TAG, "")
    if not name or any(char.isspace() for char in name):
        raise NoCall
    return name


def _python(value: Any) -> str:
    if isinstance(value, str):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return dumps(value) if isinstance(value, dict) else str(value)


class Gemma4(Plain):
    """Gemma 4: `call:f{a:<|"|>x<|"|>,b:1}` a call; strings raw between two of its quotes, keys bare and sorted."""

    name, markers, closing, quote = "gemma4", ("<|tool_call>",), "<tool_call|>", '<|"|>'
    tokens = (*markers, closing, quote, "<|tool>", "<tool|>", "<|tool_response>", "<tool_response|>")

    def write(self, calls: Sequence[ToolCall], ink: Ink, after_text: bool) -> str:
        """Raises TemplateError for keys that hold a mark of the notation, and for strings that hold its quote as plain text."""
        said = [f"{bare_name(call, ink, self.name, '{')}{self._spelled(dict(call.arguments), ink)}" for call in calls]
        return "".join(f"{self.markers[0]}call:{one}{self.closing}" for one in said)

    def _spelled(self, value: Any, ink: Ink) -> str:
        if isinstance(value, str):
            if self.quote in value and self.quote not in ink.controls:
                raise TemplateError(f'tool dialect "{self.name}" cannot write a string that holds {self.quote}: {value[:80]!r}')
            return f"{self.quote}{ink.content(value)}{self.quote}"
        if isinstance(value, dict):
            keys = sorted(value, key=str.lower)
            said = [f"{ink.content(bare(key, self.name, _WHAT, _MARKS))}:{self._spelled(value[key], ink)}" for key in keys]
            return "{" + ",".join(said) + "}"
        if isinstance(value, list | tuple):
            return "[" + ",".join(self._spelled(item, ink) for item in value) + "]"
        return ink.content({True: "true", False: "false"}[value] if isinstance(value, bool) else str(value))

    def calls(self, scan: Scan) -> Step[None]:
        """One call."""
        quote = scan.mark(self.quote)
        yield from scan.word(*self.markers)
        yield from scan.word("call:")
        name, _ = yield from scan.upto(re.compile(r"\{"), _LONGEST)
        name = _checked(name)
        index = yield from scan.begin(name)
        arguments: dict[str, Any] = {}
        yield from scan.space()
        end = yield from scan.maybe("}")
        while not end:
            key, _ = yield from scan.upto(re.compile(":"), _LONGEST)
            text = yield from scan.span({self.quote: False}, ",}")
            yield from scan.argument(index, arguments, _checked(key.replace(quote, "")), _untagged(read_literal(text, quote)))
            if (yield from scan.word(",", "}")) == "}":
                break
            yield from scan.space()
        yield from scan.space()
        yield from scan.word(self.closing)
        yield from scan.finish(index, name, arguments)


_MARKS = ":,{}[]()<>\"' " + _BREAKS


def _untagged(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace(TAG, "")
    if isinstance(value, dict):
        return {_untagged(key): _untagged(inner) for key, inner in value.items()}
    return [_untagged(item) for item in value] if isinstance(value, list) else value


PLAINLY = (Lfm2(), Gemma4(), ChatGlm3(), MiniCpm())
