"""JSON between tags: a block a call (Qwen 1.5 to 3, Hermes, Ling, Granite 4 ...), or all calls in one (MiniMax M1).

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
    """kind "each": tags around every call; "all": around all of them, a line a call.

    keys: of a call's object, in order, the one that is not "name" has the arguments; inner: white space between tags and object;
    between: calls; before: white space before the first tag where nothing is said before it; joint: where something is, what
    ends that and stands before the tag, in place of the gap; behind: white space behind a closing tag.
    """

    def __init__(
        self, name: str, opening: str, closing: str, kind: str = "each", *, keys: tuple[str, str] = ("name", "arguments"),
        inner: tuple[str, str] = ("\n", "\n"), between: str = "\n", gap: str = "\n", before: str = "", joint: str = "",
        behind: str = "", tokens: tuple[str, ...] = (),
    ):  # fmt: skip
        self.name, self.opening, self.closing, self.kind, self.gap = name, opening, closing, kind, "" if joint else gap
        self.keys, self.inner, self.between, self.before, self.behind = keys, inner, between, before, behind
        self.joint, self.tokens = joint, tokens
        self.markers = (*([joint + opening] if joint else []), opening)

    def write(self, calls: Sequence[ToolCall], ink: Ink, after_text: bool) -> str:
        """The blocks, behind the gap where text stands before them."""
        said = [self._item(call, ink) for call in calls]
        blocks = said if self.kind == "each" else ["\n".join(said)]
        head = (self.joint or self.gap) if after_text else self.before
        tagged = [f"{self.opening}{self.inner[0]}{one}{self.inner[1]}{self.closing}{self.behind}" for one in blocks]
        return head + self.between.join(tagged)

    def _item(self, call: ToolCall, ink: Ink) -> str:
        said = [
            f'"{key}": ' + (f'"{spelled_name(call, ink)}"' if key == "name" else spelled_arguments(call, ink))
            for key in self.keys
        ]
        return "{" + ", ".join(said) + "}"

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
_ACTION = ("<|action_start|>", "<|plugin|>", "<|action_end|>")

TAGGED = (
    TaggedJson("qwen", "<tool_call>", "</tool_call>", tokens=_TOKENS),
    TaggedJson("ling", "<tool_call>", "</tool_call>"),
    TaggedJson("granite4", "<tool_call>", "</tool_call>", tokens=_TOKENS),
    TaggedJson("falcon_h1", "<tool_call>", "</tool_call>", keys=("arguments", "name")),
    TaggedJson("minimax1", "<tool_calls>", "</tool_calls>", "all"),
    TaggedJson("youtu", "<tool_call>", "</tool_call>", inner=("", ""), between="", gap=""),
    TaggedJson(
        "internlm2", "<|action_start|><|plugin|>", "<|action_end|>", keys=("name", "parameters"), inner=("\n", ""), between="",
        gap="", tokens=_ACTION,
    ),
    TaggedJson(
        "ernie", "<tool_call>", "</tool_call>", before="\n", joint="\n</response>\n\n", behind="\n",
        tokens=("<tool_call>", "</tool_call>", "<response>", "</response>"),
    ),
)  # fmt: skip
