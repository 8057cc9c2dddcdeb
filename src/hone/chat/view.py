"""View: a message as a format file sees it, its texts already marked, its thoughts and calls already written.

Does not know tokens, nor where the format puts anything.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from operator import is_

from hone.chat.dialects.dialect import Dialect
from hone.chat.marks import Ink
from hone.chat.message import Conversation, Media, Message, Text, Think, ToolCall, ToolResult
from hone.chat.table import Row
from hone.errors import TemplateError

PLAIN_OPEN, PLAIN_CLOSE = "<think>\n", "\n</think>\n\n"
"""How a thought is written, as ordinary text, in a format that has no place for thoughts."""


@dataclass(frozen=True)
class View:
    """One message for Jinja. index: in the conversation, -1 for the default system prompt. role: our four.

    text: what system, user or tool say; body: what an assistant says, thought and calls included, without its stop token;
    opening: text between the assistant's header and the body that belongs to the prompt; calls: whether the body has tool calls;
    thinks: whether opening and body have the words of a thought, also of an empty one; muted: whether the answer is one that was
    asked for without a thought. tool: the name of the tool that says the text, where the result tells it; call_id: that of the
    call it answers. end: the token that ends an answer with calls, '' where it is the format's. rewritten: whether it is written
    otherwise than when it was the last message.
    """

    index: int
    role: str
    text: str = ""
    body: str = ""
    opening: str = ""
    calls: bool = False
    thinks: bool = False
    muted: bool = False
    rewritten: bool = False
    tool: str = ""
    call_id: str = ""
    end: str = ""


@dataclass(frozen=True)
class Thinking:
    """The run's choice: enable true, false or null (None); preserve keeps the thoughts of earlier answers."""

    enable: bool | None = True
    preserve: bool = False


def split_thoughts(conversation: Conversation) -> Conversation:
    """Leading <think>...</think> of answers made Think parts, so that every source of data says thoughts the same way."""
    messages = tuple(map(_split, conversation.messages))
    return conversation if all(map(is_, messages, conversation.messages)) else replace(conversation, messages=messages)


def _split(one: Message) -> Message:
    if one.role != "assistant" or not one.parts or not isinstance(one.parts[0], Text):
        return one
    head, closed, rest = one.parts[0].text.partition("</think>")
    if not closed or not head.lstrip().startswith("<think>"):
        return one
    thought = head.lstrip().removeprefix("<think>").strip("\n")
    parts = ((Think(thought),) if thought.strip() else ()) + ((Text(rest.lstrip("\n")),) if rest.strip("\n") else ())
    return replace(one, parts=(*parts, *one.parts[1:]) or (Text(""),))


def refuse_media(one: Message) -> None:
    """Raise TemplateError for a picture, a film or a sound in a message in which no format has a place for it."""
    for part in one.media:
        said = "an answer" if one.role == "assistant" else "a tool's result"
        raise TemplateError(f"{said} holds {part.kind} content; it is shown to the model in a question or a system message")


class _Ids:
    """Calls with the ids that the dialect writes, and their results with the same ids and with the functions' names."""

    def __init__(self, dialect: Dialect):
        self._dialect, self._number = dialect, 0
        self._open: list[tuple[str, ToolCall]] = []

    def calls(self, calls: list[ToolCall]) -> list[ToolCall]:
        """The calls of one message."""
        made = [replace(call, id=self._dialect.id_of(call, self._number + at)) for at, call in enumerate(calls)]
        self._number += len(calls)
        self._open = [(call.id, new) for call, new in zip(calls, made, strict=True)]
        return made

    def result(self, result: ToolResult) -> ToolResult:
        """The result of the call with its id, or of the first one that has none yet."""
        found = next((one for one in self._open if result.id and one[0] == result.id), self._open[0] if self._open else None)
        if found is None:
            return result
        self._open.remove(found)
        return replace(result, id=found[1].id, name=result.name or found[1].name)


class Views:
    """Builds the views of one conversation."""

    def __init__(self, row: Row, dialect: Dialect, thinking: Thinking, ink: Ink):
        self.row, self.dialect, self.ink = row, dialect, ink
        self.thinking = replace(thinking, enable=False) if row.thinking == "never" else thinking
        self._ids = _Ids(dialect)
        self._offers = False
        self._counts: Counter[str] = Counter()

    def build(self, conversation: Conversation, default_system: str, tool_prompt: str, *, asks: bool) -> list[View]:
        """The views; tool_prompt: marked text to end the system prompt with, '' for none; asks: whether an answer comes after."""
        self._offers, messages = bool(conversation.tools), conversation.messages
        final = None if asks else len(messages) - 1
        last_user = max((i for i, one in enumerate(messages) if one.role == "user"), default=-1)
        views: list[View] = []
        for index, one in enumerate(messages):
            if one.role == "assistant":
                after_tool = bool(views) and views[-1].role == "tool"
                views.append(self._assistant(index, one, current=index > last_user, final=index == final, after_tool=after_tool))
            else:
                views += self._others(index, one)
        if not (messages and messages[0].role == "system") and (default_system or tool_prompt):
            views.insert(0, View(-1, "system", self._content(default_system)))
        if tool_prompt:
            first = views[0]
            views[0] = replace(first, text=f"{first.text}\n\n{tool_prompt}" if first.text else tool_prompt)
        return self._muted(views) if self.row.mute and self.thinking.enable is not True else views

    def thinks(self, conversation: Conversation, prompt: bool) -> bool:
        """Whether what is asked for is an answer with thoughts; where enable_thinking is null, the last answer itself tells."""
        if self.row.thinking == "none" or self.thinking.enable is not None:
            return self.row.thinking != "none" and self.thinking.enable is True
        last = conversation.messages[-1] if conversation.messages else None
        return prompt or last is None or last.role != "assistant" or any(isinstance(part, Think) for part in last.parts)

    def _muted(self, views: list[View]) -> list[View]:
        """With the row's words behind each question whose answer is asked for without a thought."""
        muted, made = self.thinking.enable is False, []
        for view in reversed(views):
            muted = view.muted if view.role == "assistant" else muted
            made.append(replace(view, text=view.text + self.row.mute) if muted and view.role == "user" else view)
        return made[::-1]

    def opening(self) -> str:
        """What the prompt says after the assistant's header."""
        if self.row.thinking == "none":
            return ""
        if self.thinking.enable is False:
            return self._empty
        return self.row.think_open if self.row.thinking in ("prompt", "question") else ""

    @property
    def _empty(self) -> str:
        return self.row.think_open + self.row.think_close if self.row.think_empty is None else self.row.think_empty

    def _others(self, index: int, one: Message) -> list[View]:
        if one.media and one.role != "tool":
            return [View(index, one.role, self._with_media(one))]
        refuse_media(one)
        if one.role == "tool":
            results = [part for part in one.parts if isinstance(part, ToolResult)]
            results = [self._ids.result(part) for part in results or [ToolResult(one.text)]]
            return [self._result(index, part) for part in results]
        return [View(index, one.role, self._content(one.text))]

    def _result(self, index: int, part: ToolResult) -> View:
        said, name, call_id = (self._content(text) for text in (self.dialect.result(part), part.name, part.id))
        return View(index, "tool", said, tool=name, call_id=call_id)

    def _with_media(self, one: Message) -> str:
        """Texts and, where they stand among them, the format's own words for a picture, a film or a sound."""
        parts = [part for part in one.parts if isinstance(part, Text | Media)]
        if self.row.trim and isinstance(parts[0], Text):
            parts[0] = Text(parts[0].text.lstrip())
        if self.row.trim and isinstance(parts[-1], Text):
            parts[-1] = Text(parts[-1].text.rstrip())
        return "".join(self.ink.content(part.text) if isinstance(part, Text) else self._shown(part) for part in parts)

    def _shown(self, part: Media) -> str:
        self._counts[part.kind] += 1
        return self.row.media[part.kind].replace("{number}", str(self._counts[part.kind]))

    def _assistant(self, index: int, one: Message, *, current: bool, final: bool, after_tool: bool) -> View:
        refuse_media(one)
        thought = "".join(part.text for part in one.parts if isinstance(part, Think))
        calls = self._ids.calls([part for part in one.parts if isinstance(part, ToolCall)])
        end = self.dialect.end if calls and self.dialect.name == self.row.dialect else ""
        text = one.text.strip() if self.row.trim else one.text
        shown = current or self.thinking.preserve
        # Where only questions make the prompt open a thought, the header it stands behind is not there after tool results.
        can_ask = not (after_tool and self.row.thinking == "question")
        placed = {"last": final, "current": current, "all": True}[self.row.empty_thoughts]
        asks = (placed or self.thinking.preserve) and can_ask
        marked = self._marked(thought.strip("\n"))
        told = marked if shown or self.row.thinking == "none" else ""
        opening, written = self._thought(told, asks, after_tool, final)
        rewritten = (opening, written) != self._thought(marked, can_ask, after_tool, True)
        rewritten |= self.row.asks_last and self._offers and self.dialect.name == self.row.dialect and not final
        said = self._said(opening + written, text)
        lead = "" if calls and not said and self.dialect.bare else self.row.lead
        thinks = self.row.thinking != "none" and bool(opening + written)
        gap = self.row.after_thought if thinks else ""
        spoken = (gap if said else "") + self._spoken(said, calls)
        # Where the words of an empty thought end with the gap, neither text nor a call begins with it once more.
        spoken = spoken.removeprefix(gap) if (opening + written).endswith(gap) else spoken
        muted = self.thinking.enable is False or (self.thinking.enable is None and not told)
        return View(
            index, "assistant", body=lead + written + spoken, opening=opening, calls=bool(calls), thinks=thinks, muted=muted,
            rewritten=rewritten, end=end,
        )  # fmt: skip

    def _marked(self, thought: str) -> str:
        return self.ink.content(PLAIN_OPEN + thought + PLAIN_CLOSE if thought and self.row.thinking == "none" else thought)

    def _thought(self, thought: str, needs_block: bool, after_tool: bool, final: bool) -> tuple[str, str]:
        """The part of the marked thought that the prompt says, and the part the answer says."""
        row, enable = self.row, self.thinking.enable
        if row.thinking == "none":
            return "", thought
        if enable is False:
            return (self._empty if needs_block else ""), ""
        if not thought and not needs_block:
            return "", ""
        if row.thinking == "prompt" or (row.thinking == "question" and not after_tool):
            if not thought and not final and row.think_empty is not None:
                return row.think_empty, ""
            return row.think_open, thought + row.think_close
        if not thought and enable is None:
            return self._empty, ""
        return "", row.think_open + thought + row.think_close if thought else self._empty

    def _said(self, before: str, text: str) -> str:
        return self.ink.content(text.lstrip("\n") if before and self.row.thinking != "none" else text)

    def _spoken(self, said: str, calls: list[ToolCall]) -> str:
        row, own = self.row, self.dialect.name == self.row.dialect
        called = self.dialect.write(calls, self.ink, bool(said)) if calls else ""
        if not calls or not own:
            return row.say_open + (self.dialect.says if own and self._offers else "") + said + called + row.tail
        # Where say_open opens what is said, the dialect closes it before calls.
        return ((self.dialect.preamble or row.say_open) + said if said else "") + called + ("" if row.say_open else row.tail)

    def _content(self, text: str) -> str:
        return self.ink.content(text.strip() if self.row.trim else text)
