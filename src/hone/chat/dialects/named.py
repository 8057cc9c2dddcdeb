"""The function's name in plain letters, then its arguments as JSON.

Does not know where a format puts it, nor tokens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from hone.chat.dialects.dialect import Plain
from hone.chat.dialects.listed import MISTRAL, nine
from hone.chat.dialects.scan import TAG, NoCall, Scan, Step
from hone.chat.dialects.spelling import bare_name, spelled_arguments
from hone.chat.marks import Ink
from hone.chat.message import ToolCall, ToolResult
from hone.errors import TemplateError

_LONGEST = 256
"""Characters of a function's name; OpenAI allows 64."""

_LINE = re.compile("\n")


def _arguments(scan: Scan, name: str, identity: str = "") -> Step[tuple[ToolCall, int]]:
    """The JSON object that stands here, as the arguments of `name`."""
    if not name or any(char.isspace() for char in name):
        raise NoCall
    yield from scan.space()
    yield from scan.word("{")
    scan.at -= 1
    index = yield from scan.begin(name, identity)
    arguments = yield from scan.json(index)
    return ToolCall(name, arguments, identity), index


class Glm4(Plain):
    """GLM-4: the function's name on the header's line and JSON below; each call under a header of its own."""

    bare, reads_lead, anchored, loose = True, True, True, True
    markers = ("<|assistant|>",)
    tokens = ("<|assistant|>", "<|observation|>")

    def __init__(self, name: str):
        self.name = name

    def write(self, calls: Sequence[ToolCall], ink: Ink, after_text: bool) -> str:
        """Text, where there is any, stands under the first header."""
        written = [f"{bare_name(call, ink, self.name, '')}\n{spelled_arguments(call, ink)}" for call in calls]
        return ("<|assistant|>" if after_text else "") + "<|assistant|>".join(written)

    def calls(self, scan: Scan) -> Step[None]:
        """A section that begins with a line break is text; one that is a name, a line break and JSON is a call."""
        yield from scan.maybe(*self.markers)
        if (yield from scan.maybe("\n")):
            return
        name, _ = yield from scan.upto(_LINE, _LONGEST)
        call, index = yield from _arguments(scan, name.strip())
        yield from scan.space()
        if scan.at < len(scan.text):
            before = scan.at
            yield from scan.word(*self.markers)
            scan.at = before
        yield from scan.make(call, index)


class DeepSeek3(Plain):
    """DeepSeek V3 and R1: a fenced JSON block a call, between tokens of their own; kind "v3.1": the JSON without a fence."""

    begin, end = "<\uff5ctool\u2581calls\u2581begin\uff5c>", "<\uff5ctool\u2581calls\u2581end\uff5c>"
    call_begin, call_end = "<\uff5ctool\u2581call\u2581begin\uff5c>", "<\uff5ctool\u2581call\u2581end\uff5c>"
    sep = "<\uff5ctool\u2581sep\uff5c>"
    outputs = tuple(
        f"<\uff5ctool\u2581output{word}\uff5c>" for word in ("s\u2581begin", "s\u2581end", "\u2581begin", "\u2581end")
    )
    markers, closing, tokens = (begin,), end, (begin, end, call_begin, call_end, sep, *outputs)

    def __init__(self, name: str, kind: str = "v3"):
        self.name, self.kind = name, kind

    def write(self, calls: Sequence[ToolCall], ink: Ink, after_text: bool) -> str:
        """All calls between one pair of tokens."""
        if self.kind == "v3.1":
            written = [f"{bare_name(call, ink, self.name, '<')}{self.sep}{spelled_arguments(call, ink)}" for call in calls]
            return self.begin + "".join(f"{self.call_begin}{one}{self.call_end}" for one in written) + self.end
        written = [f"{bare_name(call, ink, self.name, '')}\n```json\n{spelled_arguments(call, ink)}\n```" for call in calls]
        return self.begin + "\n".join(f"{self.call_begin}function{self.sep}{one}{self.call_end}" for one in written) + self.end

    def calls(self, scan: Scan) -> Step[None]:
        """Each call as soon as its token ends it."""
        yield from scan.word(self.begin)
        word = yield from scan.word(self.call_begin)
        while word != self.end:
            if self.kind == "v3.1":
                name, _ = yield from scan.upto(re.compile(re.escape(scan.mark(self.sep))), _LONGEST)
            else:
                yield from scan.word(f"function{self.sep}")
                name, _ = yield from scan.upto(_LINE, _LONGEST)
                yield from scan.word("```json")
            call, index = yield from _arguments(scan, name.strip())
            yield from scan.space()
            if self.kind == "v3":
                yield from scan.word("```")
            yield from scan.word(self.call_end)
            yield from scan.make(call, index)
            yield from scan.space()
            word = yield from scan.word(self.call_begin, self.end)


class Kimi(Plain):
    """Kimi K2: functions.NAME:NUMBER and JSON a call, all of them in a section."""

    name, markers, closing = "kimi", ("<|tool_calls_section_begin|>",), "<|tool_calls_section_end|>"
    _begin, _arguments, _end = "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"
    tokens = (markers[0], closing, _begin, _arguments, _end)
    _ID = re.compile(r"(?:functions\.)?([^\s:]+)(?::\d+)?")

    def write(self, calls: Sequence[ToolCall], ink: Ink, after_text: bool) -> str:
        """A call's own id where it has that form."""
        written = [
            f"{self._begin}{ink.content(self.id_of(call, at))}{self._arguments}{spelled_arguments(call, ink)}{self._end}"
            for at, call in enumerate(calls)
        ]
        return self.markers[0] + "".join(written) + self.closing

    def result(self, result: ToolResult) -> str:
        """Under the line that names the call."""
        return f"## Return of {result.id}\n{result.content}"

    def id_of(self, call: ToolCall, number: int) -> str:
        """ "functions.f:0" for the first call, of `f`."""
        if re.fullmatch(rf"functions\.{re.escape(call.name)}:\d+", call.id):
            return call.id
        made = f"functions.{call.name}:{number}"
        found = self._ID.fullmatch(made)
        if not found or found[1] != call.name or "<" in call.name:
            raise TemplateError(f'tool dialect "{self.name}" cannot write the function name {call.name!r}')
        return made

    def calls(self, scan: Scan) -> Step[None]:
        """Each call as soon as its token ends it."""
        yield from scan.word(*self.markers)
        yield from scan.space()
        word = yield from scan.word(self._begin)
        while word == self._begin:
            said, _ = yield from scan.upto(re.compile(re.escape(scan.mark(self._arguments))), _LONGEST)
            found = self._ID.fullmatch(said.strip())
            call, index = yield from _arguments(scan, found[1] if found else "", said.strip())
            yield from scan.space()
            yield from scan.word(self._end)
            yield from scan.make(call, index)
            yield from scan.space()
            word = yield from scan.word(self._begin, self.closing)


class Harmony(Plain):
    """gpt-oss: a call is a message of its own to a function, ended by <|call|>; text before it is a message of commentary.

    Written as the maker's template writes it, with the function in the header's role; models also say it behind the channel.
    """

    name, loose, end, preamble = "gpt_oss", True, "<|call|>", "<|channel|>commentary<|message|>"
    _next = "<|end|><|start|>assistant"
    markers = tuple(before + to for before in (_next, "") for to in (" to=functions.", "<|channel|>commentary to=functions."))
    tokens = ("<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|call|>")
    _NAME = re.compile(rf"[^\s<{TAG}]+")

    def write(self, calls: Sequence[ToolCall], ink: Ink, after_text: bool) -> str:
        """Raises TemplateError for more than one call: the first one ends the answer."""
        if len(calls) > 1:
            raise TemplateError(
                f'tool dialect "{self.name}" has place for one call a message, not {len(calls)}; split the message'
            )
        head = f" to=functions.{bare_name(calls[0], ink, self.name, '<')}<|channel|>commentary json<|message|>"
        return (self._next if after_text else "") + head + spelled_arguments(calls[0], ink)

    def calls(self, scan: Scan) -> Step[None]:
        """One call."""
        yield from scan.word(*self.markers)
        head, _ = yield from scan.upto(re.compile(re.escape(scan.mark("<|message|>"))), _LONGEST)
        name = self._NAME.match(head)
        call, index = yield from _arguments(scan, name.group() if name else "")
        yield from scan.maybe(self.end)
        yield from scan.make(call, index)


class MistralArgs(Plain):
    """Mistral from v11 on: [TOOL_CALLS]name[ARGS]{...} a call; v11 puts the call's id between name and arguments."""

    bare, markers = True, ("[TOOL_CALLS]",)

    def __init__(self, name: str, ids: bool):
        self.name, self.ids = name, ids
        self.tokens = (*MISTRAL, "[ARGS]", *(("[TOOL_CONTENT]", "[CALL_ID]") if ids else ()))

    def write(self, calls: Sequence[ToolCall], ink: Ink, after_text: bool) -> str:
        """An id that is not nine letters or digits is made so."""
        return "".join(
            f"[TOOL_CALLS]{bare_name(call, ink, self.name, '[')}"
            f"{'[CALL_ID]' + ink.content(self.id_of(call, at)) if self.ids else ''}[ARGS]{spelled_arguments(call, ink)}"
            for at, call in enumerate(calls)
        )

    def id_of(self, call: ToolCall, number: int) -> str:
        """The call's own where it is nine letters or digits."""
        return nine(call.id, number)

    def calls(self, scan: Scan) -> Step[None]:
        """One call."""
        yield from scan.word(*self.markers)
        ends = "|".join(re.escape(scan.mark(word)) for word in ("[CALL_ID]", "[ARGS]"))
        name, end = yield from scan.upto(re.compile(ends), _LONGEST)
        identity = ""
        if end == scan.mark("[CALL_ID]"):
            identity, _ = yield from scan.upto(re.compile(re.escape(scan.mark("[ARGS]"))), _LONGEST)
        call, index = yield from _arguments(scan, name.strip(), identity.strip())
        yield from scan.make(call, index)


class React(Plain):
    """Plain text, for models without a way of their own: Action and Action Input lines."""

    name, loose, markers, gap = "default", True, ("Action:",), "\n"

    def write(self, calls: Sequence[ToolCall], ink: Ink, after_text: bool) -> str:
        """Two lines a call."""
        written = [
            f"Action: {bare_name(call, ink, self.name, '')}\nAction Input: {spelled_arguments(call, ink)}" for call in calls
        ]
        return ("\n" if after_text else "") + "\n".join(written)

    def calls(self, scan: Scan) -> Step[None]:
        """One call; its first word stands at the start of a line."""
        if scan.at and scan.text[scan.at - 1] != "\n":
            raise NoCall
        yield from scan.word(*self.markers)
        name, _ = yield from scan.upto(_LINE, _LONGEST)
        yield from scan.word("Action Input:")
        call, index = yield from _arguments(scan, name.strip())
        yield from scan.make(call, index)


NAMED = (
    Glm4("glm4"),
    Glm4("glm4_0414"),
    DeepSeek3("deepseek3"),
    DeepSeek3("deepseek3_1", "v3.1"),
    Kimi(),
    Harmony(),
    MistralArgs("mistral_v11", ids=True),
    MistralArgs("mistral_v13", ids=False),
    React(),
)
