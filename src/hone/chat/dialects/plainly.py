"""Calls in a notation of their own: Python's (LFM2), Gemma 4's.

Does not know where a format puts it, nor tokens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from hone.chat.dialects.dialect import Plain
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
    _QUOTES = {"'": True, '"': True}  # noqa: RUF012

    def write(self, calls: Sequence[ToolCall], ink: Ink, after_text: bool) -> str:
        """Objects as JSON, all else as Python writes it."""
        written = []
        for call in calls:
            arguments = [
                f"{ink.content(bare(key, self.name, _WHAT, '=,() ' + _BREAKS))}={ink.content(_python(value))}"
                for key, value in call.arguments.items()
            ]
            written.append(f"{bare_name(call, ink, self.name, '(),[]')}({', '.join(arguments)})")
        return f"{self.markers[0]}[{', '.join(written)}]{self.closing}"

    def calls(self, scan: Scan) -> Step[None]:
        """Each call as soon as its bracket closes."""
        yield from scan.word(*self.markers)
        yield from scan.space()
        yield from scan.word("[")
        while True:
            yield from scan.space()
            name, _ = yield from scan.upto(re.compile(r"\("), _LONGEST)
            name = _checked(name)
            index = yield from scan.begin(name)
            arguments: dict[str, Any] = {}
            yield from scan.space()
            end = yield from scan.maybe(")")
            while not end:
                key, _ = yield from scan.upto(re.compile("="), _LONGEST)
                text = yield from scan.span(self._QUOTES, ",)")
                yield from scan.argument(index, arguments, _checked(key), read_literal(text.replace(TAG, "")))
                if (yield from scan.word(",", ")")) == ")":
                    break
                yield from scan.space()
            yield from scan.finish(index, name, arguments)
            yield from scan.space()
            if (yield from scan.word(",", "]")) == "]":
                break
        yield from scan.space()
        yield from scan.word(self.closing)


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


PLAINLY = (Lfm2(), Gemma4())
