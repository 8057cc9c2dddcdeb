"""Deltas of an engine in OpenAI's JSON: whole answers, and chunks of answers as they grow.

Does not know HTTP, nor who may ask.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from hone.chat.events import ArgumentsGrown, CallBegun, CallMade, Event, TextGrown, ThoughtGrown
from hone.inference.base import Answer, Choice, Delta, Request, Token

LOWEST = -9999.0
"""What OpenAI writes for a token that cannot come: JSON has no minus infinity."""

Json = dict[str, Any]


class Growing(Protocol):
    """One choice as it grows."""

    def pieces(self, delta: Delta) -> Iterator[Json]:
        """Choices of chunks: what is new with a delta, why the answer ended with its last."""
        ...

    def whole(self) -> Json:
        """The choice that all deltas came to."""
        ...


class ChatChoice:
    """A choice of /v1/chat/completions; its first piece says the role.

    A call that is dropped had been told as far as it went, and keeps its number; what it was made of follows as content.
    """

    def __init__(self, index: int, request: Request):
        self._index, self._tells = index, request.steering.num_top is not None
        self._calls: dict[int, Json] = {}
        self._made: list[int] = []
        self._text = self._thought = self._finish = ""
        self._tokens: list[Token] = []
        self._begun = False

    def pieces(self, delta: Delta) -> Iterator[Json]:
        """As Growing says."""
        self._tokens += delta.tokens
        told = [part for event in delta.events if (part := self._part(event))]
        if not self._begun:
            self._begun = True
            yield self._piece({"role": "assistant", "content": ""})
        logprobs = _chat_logprobs(delta.tokens) if delta.tokens else None
        for part in told or ([{}] if logprobs else []):
            yield self._piece(part, logprobs)
            logprobs = None
        if delta.answer is not None:
            self._finish = "tool_calls" if self._made and delta.answer.finish == "stop" else _finish(delta.answer)
            yield self._piece({}, finish=self._finish)

    def whole(self) -> Json:
        """As Growing says."""
        calls = [self._calls[index] for index in self._made]
        message: Json = {"role": "assistant", "content": None if calls and not self._text else self._text, "refusal": None}
        if self._thought:
            message["reasoning_content"] = self._thought
        if calls:
            message["tool_calls"] = calls
        logprobs = _chat_logprobs(self._tokens) if self._tells else None
        return {"index": self._index, "message": message, "logprobs": logprobs, "finish_reason": self._finish}

    def _piece(self, part: Json, logprobs: Json | None = None, finish: str | None = None) -> Json:
        return {"index": self._index, "delta": part, "logprobs": logprobs, "finish_reason": finish}

    def _part(self, event: Event) -> Json:
        """What a chunk says of an event; {} for nothing."""
        if isinstance(event, TextGrown):
            self._text += event.text
            return {"content": event.text}
        if isinstance(event, ThoughtGrown):
            self._thought += event.text
            return {"reasoning_content": event.text}
        if isinstance(event, CallBegun):
            call = {"id": event.id or f"call_{secrets.token_hex(12)}", "type": "function"}
            function = {"name": event.name, "arguments": ""}
            self._calls[event.index] = call | {"function": dict(function)}
            return {"tool_calls": [{"index": event.index, **call, "function": function}]}
        if isinstance(event, ArgumentsGrown):
            self._calls[event.index]["function"]["arguments"] += event.text
            return {"tool_calls": [{"index": event.index, "function": {"arguments": event.text}}]}
        if isinstance(event, CallMade):
            self._made.append(event.index)
        return {}


class TextChoice:
    """A choice of /v1/completions. echo: the prompt, which stands before the answer; '' for not."""

    def __init__(self, index: int, request: Request, *, echo: str = ""):
        self._index, self._tells, self._echo = index, request.steering.num_top is not None, echo
        self._text = self._finish = ""
        self._tokens: list[Token] = []
        self._num_named = len(echo)  # characters before the next token

    def pieces(self, delta: Delta) -> Iterator[Json]:
        """As Growing says."""
        self._tokens += delta.tokens
        said = "".join(event.text for event in delta.events if isinstance(event, TextGrown))
        said, self._echo = self._echo + said, ""
        self._text += said
        if said or delta.tokens:
            yield self._choice(said, self._logprobs(delta.tokens) if delta.tokens else None, None)
        if delta.answer is not None:
            self._finish = _finish(delta.answer)
            yield self._choice("", None, self._finish)

    def whole(self) -> Json:
        """As Growing says."""
        self._num_named = len(self._text) - sum(len(token.text) for token in self._tokens)
        return self._choice(self._text, self._logprobs(self._tokens) if self._tells else None, self._finish)

    def _choice(self, text: str, logprobs: Json | None, finish: str | None) -> Json:
        return {"index": self._index, "text": text, "logprobs": logprobs, "finish_reason": finish}

    def _logprobs(self, tokens: Sequence[Token]) -> Json:
        places = []
        for token in tokens:
            places.append(self._num_named)
            self._num_named += len(token.text)
        return {
            "tokens": [token.text for token in tokens],
            "token_logprobs": [max(token.logprob, LOWEST) for token in tokens],
            "top_logprobs": [{one.text: max(one.logprob, LOWEST) for one in token.top} for token in tokens],
            "text_offset": places,
        }


class Reply:
    """What one request is answered with: its choices, in one JSON object or in chunks.

    kind: OpenAI's name of a whole answer, chunk: of a piece of it. each: choices a prompt. usage: a last chunk tells the tokens.
    """

    def __init__(self, model: str, kind: str, chunk: str, choices: Sequence[Growing], *, each: int, usage: bool = False):
        self._choices, self._each, self._usage = choices, each, usage
        prefix = "chatcmpl" if kind == "chat.completion" else "cmpl"
        self._head = {"id": f"{prefix}-{secrets.token_hex(16)}", "created": int(time.time()), "model": model}
        self._kind, self._chunk = kind, chunk
        self.answers: dict[int, Answer] = {}

    def chunks(self, index: int, delta: Delta) -> Iterator[Json]:
        """What the `index`-th choice's next delta adds; nothing where it says nothing."""
        if delta.answer is not None:
            self.answers[index] = delta.answer
        extra = {"usage": None} if self._usage else {}
        for piece in self._choices[index].pieces(delta):
            yield self._head | {"object": self._chunk, "choices": [piece]} | extra

    def last(self) -> Iterator[Json]:
        """The chunk behind all choices, where it is asked for."""
        if self._usage:
            yield self._head | {"object": self._chunk, "choices": [], "usage": self.usage()}

    def whole(self) -> Json:
        """All choices, once each has had its last delta."""
        choices = [choice.whole() for choice in self._choices]
        return self._head | {"object": self._kind, "choices": choices, "usage": self.usage()}

    def usage(self) -> Json:
        """Tokens: a prompt counts once, however many answers it has."""
        read = {index // self._each: answer.num_prompt for index, answer in self.answers.items()}
        drawn = sum(answer.num_tokens for answer in self.answers.values())
        return {"prompt_tokens": sum(read.values()), "completion_tokens": drawn, "total_tokens": sum(read.values()) + drawn}


def _finish(answer: Answer) -> str:
    return "stop" if answer.finish == "stop" else "length"


def _chat_logprobs(tokens: Sequence[Token]) -> Json:
    return {"content": [_told(token) | {"top_logprobs": [_told(one) for one in token.top]} for token in tokens], "refusal": None}


def _told(token: Choice) -> Json:
    """A token that is part of a character has no bytes to tell: its text is U+FFFD."""
    whole = "\ufffd" not in token.text
    return {"token": token.text, "logprob": max(token.logprob, LOWEST), "bytes": list(token.text.encode()) if whole else None}
