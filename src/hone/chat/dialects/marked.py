"""Every argument between words of its own, strings as they are and all else as JSON (Qwen 3.5, Seed-OSS, MiniMax M2, GLM 4.5 on).

Does not know where a format puts it, nor tokens. Which text is a string is told by the tool's schema; see `value_of`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hone.chat.dialects.dialect import Plain
from hone.chat.dialects.scan import TAG, NoCall, Scan, Step
from hone.chat.dialects.spelling import bare, bare_name, check_ends, dumps, schema_of, value_of
from hone.chat.marks import Ink
from hone.chat.message import ToolCall

_LONGEST = 1024
"""Characters of a function's or an argument's name."""


class Marked(Plain):
    """head, key: what stands before and behind the function's and an argument's name; value: before and behind a value;
    stop: what ends a call; pad: white space around a value; kind "each": tags around every call, "all": around all of them.

    spell: how a value that is no string is written. before: white space before a block; between: blocks, None for a line's.
    """

    def __init__(
        self, name: str, opening: str, closing: str, *, head: tuple[str, str], key: tuple[str, str], value: tuple[str, str],
        stop: str = "", pad: str = "", line: str = "\n", kind: str = "each", gap: str = "\n", before: str = "",
        between: str | None = None, spell: Callable[[Any], str] = dumps, tokens: tuple[str, ...] = (),
    ):  # fmt: skip
        self.name, self.markers, self.closing, self.gap = name, (opening,), closing, gap
        self.head, self.key, self.value, self.stop, self.pad, self.line = head, key, value, stop, pad, line
        self.kind, self.before, self.spell, self.tokens = kind, before, spell, tokens
        self.between = line if between is None else between

    def write(self, calls: Sequence[ToolCall], ink: Ink, after_text: bool) -> str:
        """Raises TemplateError for names and texts that hold the words around them."""
        opening, said = self.markers[0], [self._written(call, ink) for call in calls]
        if self.kind == "all":
            blocks = f"{opening}\n" + "".join(f"{one}\n" for one in said) + self.closing
        else:
            line = self.line if self.stop else ""
            blocks = self.between.join(f"{opening}{line}{one}{line}{self.closing}" for one in said)
        return (self.gap if after_text else self.before) + blocks

    def _written(self, call: ToolCall, ink: Ink) -> str:
        name = bare_name(call, ink, self.name, self.head[1][:1] or "<")
        said = [f"{self.head[0]}{name}{self.head[1]}{self.line}"]
        end = self._end(lambda word: word)
        for key, value in call.arguments.items():
            bare(key, self.name, "an argument's name", self.key[1][:1] + "\r\n")
            text = value if isinstance(value, str) else self.spell(value)
            tail = f"{self.pad}{self.value[1]}{self.line}{self.stop or self.closing}"
            if self.value[1] not in ink.controls:
                check_ends(text, tail, end, self.name)
            named = f"{self.key[0]}{ink.content(key)}{self.key[1]}{self.line if self.value[0] else ''}"
            said.append(f"{named}{self.value[0]}{self.pad}{ink.content(text)}{self.pad}{self.value[1]}{self.line}")
        return "".join(said) + self.stop

    def _end(self, mark: Callable[[str], str]) -> re.Pattern[str]:
        """What ends a value: its closing word, where another argument or the end of the call follows."""
        ahead = "|".join(re.escape(mark(word)) for word in (self.key[0], self.stop or self.closing))
        return re.compile(rf"{f'{self.pad}?' if self.pad else ''}{re.escape(mark(self.value[1]))}\s{{0,32}}(?={ahead})")

    def calls(self, scan: Scan) -> Step[None]:
        """One call, or as many as there are before the closing tag."""
        yield from scan.word(*self.markers)
        yield from scan.space()
        while True:
            index, name, arguments = yield from self._call(scan)
            if self.kind == "each":
                if self.stop:
                    yield from scan.space()
                    yield from scan.word(self.closing)
                yield from scan.finish(index, name, arguments)
                return
            yield from scan.finish(index, name, arguments)
            yield from scan.space()
            if (yield from scan.maybe(self.closing)):
                return

    def _call(self, scan: Scan) -> Step[tuple[int, str, Mapping[str, Any]]]:
        if self.head[0]:
            yield from scan.word(self.head[0])
        name = yield from self._named(scan)
        index = yield from scan.begin(name)
        arguments: dict[str, Any] = {}
        end = self._end(scan.mark)
        while True:
            yield from scan.space()
            if (yield from scan.word(self.key[0], self.stop or self.closing)) != self.key[0]:
                return index, name, arguments
            key, _ = yield from scan.upto(re.compile(re.escape(scan.mark(self.key[1]))), _LONGEST)
            if self.value[0]:
                yield from scan.space()
                yield from scan.word(self.value[0])
            if self.pad:
                yield from scan.maybe(self.pad)
            text, _ = yield from scan.upto(end)
            value = value_of(text.replace(TAG, ""), schema_of(scan.tools, name, key))
            yield from scan.argument(index, arguments, key, value)

    def _named(self, scan: Scan) -> Step[str]:
        ends = (self.head[1],) if self.head[1] else (self.key[0], self.closing)
        name, end = yield from scan.upto(re.compile("|".join(re.escape(scan.mark(word)) for word in ends)), _LONGEST)
        scan.at -= len(end) if not self.head[1] else 0
        name = name.strip().replace(TAG, "")
        if not name or any(char.isspace() for char in name):
            raise NoCall
        return name


def _as_jinja(value: Any) -> str:
    """JSON for lists and objects, and Jinja's own words for the rest: True, None."""
    return dumps(value) if isinstance(value, dict | list) else str(value)


_FUNCTION, _PARAMETER = ("<function=", ">"), ("<parameter=", ">")
_TOOL = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
_HY3 = ("<tool_calls>", "</tool_calls>", "<tool_sep>", "<tool_responses>", "</tool_responses>")
_KEY, _VALUE = ("<arg_key>", "</arg_key>"), ("<arg_value>", "</arg_value>")

MARKED = (
    Marked(
        "qwen3_5", "<tool_call>", "</tool_call>", head=_FUNCTION, key=_PARAMETER, value=("", "</parameter>"), stop="</function>",
        pad="\n", gap="\n\n", spell=_as_jinja, tokens=_TOOL,
    ),
    Marked(
        "mimo_v2", "<tool_call>", "</tool_call>", head=_FUNCTION, key=_PARAMETER, value=("", "</parameter>"), stop="</function>",
        gap="", between="", spell=_as_jinja, tokens=_TOOL,
    ),
    Marked(
        "seed_oss", "<seed:tool_call>", "</seed:tool_call>", head=_FUNCTION, key=_PARAMETER, value=("", "</parameter>"),
        stop="</function>", gap="\n\n", spell=str, tokens=("<seed:tool_call>", "</seed:tool_call>"),
    ),
    Marked(
        "minimax2", "<minimax:tool_call>", "</minimax:tool_call>", head=('<invoke name="', '">'), key=('<parameter name="', '">'),
        value=("", "</parameter>"), stop="</invoke>", kind="all", before="\n",
        tokens=("<minimax:tool_call>", "</minimax:tool_call>"),
    ),
    Marked(
        "hy3", "<tool_calls>", "</tool_calls>", head=("<tool_call>", "<tool_sep>"), key=_KEY, value=_VALUE, stop="</tool_call>",
        kind="all", gap="", tokens=(*_TOOL, *_KEY, *_VALUE, *_HY3),
    ),
    Marked(
        "glm4_moe", "<tool_call>", "</tool_call>", head=("", ""), key=_KEY, value=_VALUE, before="\n",
        tokens=(*_TOOL, *_KEY, *_VALUE, "<|observation|>"),
    ),
    Marked(
        "glm4_7", "<tool_call>", "</tool_call>", head=("", ""), key=_KEY, value=_VALUE, line="", gap="",
        tokens=(*_TOOL, *_KEY, *_VALUE, "<|observation|>"),
    ),
)  # fmt: skip
