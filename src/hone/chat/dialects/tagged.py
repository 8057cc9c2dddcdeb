"""JSON between tags: a block a call (Qwen 1.5 to 3, Hermes, Ling, Granite 4), or all calls in one (MiniMax M1).

Does not know where a format puts it, nor tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

from hone.chat.dialects.dialect import Plain
from hone.chat.dialects.scan import Scan, Step
from hone.chat.dialects.spelling import spelled_arguments, spelled_name
from hone.chat.marks import Ink
from hone.chat.message import ToolCall


class TaggedJson(Plain):
    """kind "each": tags around every call; "all": around all of them, a line a call."""

    def __init__(self, name: str, opening: str, closing: str, kind: str = "each", *, tokens: tuple[str, ...] = ()):
        self.name, self.markers, self.closing, self.kind, self.gap = name, (opening,), closing, kind, "\n"
        self.tokens = tokens

    def write(self, calls: Sequence[ToolCall], ink: Ink, after_text: bool) -> str:
        """A line break before the first tag where text stands before it."""
        said = [f'{{"name": "{spelled_name(call, ink)}", "arguments": {spelled_arguments(call, ink)}}}' for call in calls]
        blocks = said if self.kind == "each" else ["\n".join(said)]
        return (self.gap if after_text else "") + "\n".join(f"{self.markers[0]}\n{one}\n{self.closing}" for one in blocks)

    def calls(self, scan: Scan) -> Step[None]:
        """One call, or as many as there are before the closing tag."""
        yield from scan.word(*self.markers)
        while True:
            call, index = yield from scan.object()
            yield from scan.space()
            if self.kind == "each":
                yield from scan.word(self.closing)
                yield from scan.make(call, index)
                return
            yield from scan.make(call, index)
            if (yield from scan.maybe(self.closing)):
                return


_TOKENS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")

TAGGED = (
    TaggedJson("qwen", "<tool_call>", "</tool_call>", tokens=_TOKENS),
    TaggedJson("ling", "<tool_call>", "</tool_call>"),
    TaggedJson("granite4", "<tool_call>", "</tool_call>", tokens=_TOKENS),
    TaggedJson("minimax1", "<tool_calls>", "</tool_calls>", "all"),
)
