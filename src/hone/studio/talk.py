"""Talk: one visitor's conversation, and the wishes with which it is answered, to a request that keeps the API's limits.

Does not know what a page looks like, nor how an answer is drawn.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

from hone.chat.message import Conversation, Media, Message, Text, ToolCall, ToolResult, message
from hone.chat.openai import message_to_openai
from hone.inference.base import Request
from hone.serving.asked import chat_requests, read_chat
from hone.serving.desk import Desk
from hone.serving.fetch import too_large
from hone.serving.media import MEGABYTE
from hone.serving.refusal import Refusal


@dataclass
class Wishes:
    """What the settings of the page hold; None is what the server was started with. tools: a JSON list, or nothing."""

    model: str
    system: str = ""
    tools: str = ""
    temperature: float | None = None
    top_p: float | None = None
    max_new_tokens: float | None = None
    seed: float | None = None
    thinks: bool | None = None


@dataclass
class Talk:
    """`say` or `again`, then `request()`, then `hear` what was answered; `take_back` where nothing was.

    attached: files that go with what is said next.
    """

    desk: Desk
    wishes: Wishes
    messages: list[Message] = field(default_factory=list)
    attached: list[Media] = field(default_factory=list)

    @classmethod
    def begin(cls, desk: Desk) -> Talk:
        """A talk in which nothing is said, with the server's own numbers."""
        settings, most = desk.terms.settings, desk.terms.limits.api_max_tokens
        return cls(
            desk,
            Wishes(
                desk.served.name,
                temperature=settings.temperature if settings.do_sample else 0,
                top_p=settings.top_p,
                max_new_tokens=min(settings.max_new_tokens, most) or None,
            ),
        )

    @property
    def open_calls(self) -> list[ToolCall]:
        """Calls of the last answer that have no result yet, in order."""
        num_results = 0
        for one in reversed(self.messages):
            if one.role == "tool":
                num_results += 1
                continue
            calls = [part for part in one.parts if isinstance(part, ToolCall)]
            return calls[num_results:] if one.role == "assistant" else []
        return []

    def attach(self, media: Media) -> None:
        """A file for the next question, within the limits of one request. Raises: Refusal."""
        limits, there = self.desk.terms.limits, [*(part for one in self.messages for part in one.media), *self.attached]
        most = int(limits.api_max_media_size * MEGABYTE)
        if len(there) >= limits.api_max_media:
            raise Refusal(400, f"this talk holds {len(there)} files, and {limits.api_max_media} are read (api_max_media)")
        if sum(len(one.source) for one in (*there, media)) > most:
            raise too_large(most - sum(len(one.source) for one in there))
        self.attached.append(media)

    def say(self, text: str) -> None:
        """What the user says, with what is attached, or the result of the first open call."""
        calls = self.open_calls
        if calls:
            self.messages.append(Message("tool", (ToolResult(text, calls[0].name, calls[0].id),)))
        else:
            words = (Text(text),) if text or not self.attached else ()
            self.messages.append(Message("user", (*self.attached, *words)))
            self.attached.clear()

    def again(self) -> None:
        """Forget the last answer, to ask for another."""
        assert self.messages and self.messages[-1].role == "assistant", "there is no answer to forget"
        self.messages.pop()

    def hear(self, answer: Message) -> None:
        """An answer, or what there is of one that was stopped."""
        self.messages.append(replace(answer, parts=answer.parts or (Text(""),)))

    def take_back(self) -> str:
        """Forget what was said last; its text. Its files are attached again."""
        last = self.messages.pop()
        self.attached[:0] = last.media
        return "".join(part.content for part in last.parts if isinstance(part, ToolResult)) or last.text

    def request(self) -> Request:
        """What to ask the engine. Raises: Refusal where a wish is none, or breaks a limit; DataError."""
        wishes = self.wishes
        system = [message("system", wishes.system)] if wishes.system.strip() else []
        spoken = [*system, *self.messages]
        fields: dict[str, Any] = {
            "model": wishes.model,
            "messages": [item for one in spoken for item in message_to_openai(_words(one))],
            "temperature": wishes.temperature,
            "top_p": wishes.top_p,
            "max_completion_tokens": _whole(wishes.max_new_tokens),
            "seed": _whole(wishes.seed),
            "tools": _tools(wishes.tools),
        }
        asked = read_chat({name: value for name, value in fields.items() if value is not None})
        (request,) = chat_requests(asked, self.desk.terms, self.desk.adapter(asked.model))
        talk = request.conversation
        assert isinstance(talk, Conversation) and len(talk.messages) == len(spoken), "a message of a talk is one of the API's"
        seen = (one if one.media else read for one, read in zip(spoken, talk.messages, strict=True))
        return replace(request, conversation=replace(talk, messages=tuple(seen)), thinks=wishes.thinks)


def _words(one: Message) -> Message:
    """Without its files, which have passed the door when they came."""
    return replace(one, parts=(Text(one.text),)) if one.media else one


def _whole(number: float | None) -> int | None:
    """A browser's numbers may be floats."""
    return None if number is None else int(number)


def _tools(text: str) -> list[Any] | None:
    """OpenAI's tools; a function may stand there without the {"type": "function"} around it, and one tool without a list."""
    if not text.strip():
        return None
    try:
        read = json.loads(text)
    except json.JSONDecodeError as fault:
        raise Refusal(400, f"the tools are no JSON: {fault}", param="tools") from fault
    tools = read if isinstance(read, list) else [read]
    bare = [isinstance(tool, dict) and "name" in tool for tool in tools]
    return [{"type": "function", "function": tool} if one else tool for tool, one in zip(tools, bare, strict=True)] or None
