"""Replies: answers drawn in turn and sent, whole or as server-sent events while they grow.

Does not know paths, nor what was asked beside the requests.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, aclosing, closing
from typing import Any

from hone import log
from hone.errors import HoneError
from hone.inference.base import Delta, Engine, Request
from hone.serving.answers import Growing, Reply
from hone.serving.connected import while_connected
from hone.serving.desk import Desk
from hone.serving.protocol import Drawing
from hone.serving.refusal import error_body, refusal_of
from hone.serving.turns import taken_in_turn
from hone.serving.web import JSONResponse, Receive, Response, Scope, Send, StreamingResponse
from hone.serving.web import Request as Http


class Replies:
    """`await Replies(desk).give(...)`: the response to requests that one call has asked for."""

    def __init__(self, desk: Desk):
        self._served, self._terms, self._turns, self._metrics = desk.served, desk.terms, desk.turns, desk.metrics

    async def give(
        self,
        asked: Drawing,
        http: Http,
        engine: Engine,
        requests: list[Request],
        choices: Sequence[Growing],
        kind: str,
        chunk: str,
    ) -> Response:
        """The answers to `requests`, each a choice of one reply. kind, chunk: the protocol's names of a whole one and of a part.

        Raises: Refusal, HoneError before anything is sent; Gone.
        """
        usage = bool(asked.stream_options and asked.stream_options.include_usage)
        reply = Reply(requests[0].adapter or self._served.name, kind, chunk, choices, each=asked.n or 1, usage=usage)
        begun = time.monotonic()
        drawn = taken_in_turn(lambda: _drawn(engine, requests), self._turns, self._terms.limits.api_timeout)
        try:
            # What is wrong with a request shows before its first token: until then nothing is sent, and it can be refused.
            first = await while_connected(http, anext(drawn))
            self._metrics.add("hone_first_token_seconds_sum", time.monotonic() - begun)
            self._metrics.add("hone_first_token_seconds_count")
            if asked.stream:
                return Events(self._events(reply, first, drawn))
            return JSONResponse(await while_connected(http, self._whole(reply, first, drawn)))
        except BaseException:
            await drawn.aclose()
            raise

    async def _whole(self, reply: Reply, first: tuple[int, Delta], drawn: AsyncIterator[tuple[int, Delta]]) -> dict[str, Any]:
        for _ in reply.chunks(*first):
            pass
        async for index, delta in drawn:
            for _ in reply.chunks(index, delta):
                pass
        self._count(reply)
        return reply.whole()

    async def _events(
        self, reply: Reply, first: tuple[int, Delta], drawn: AsyncIterator[tuple[int, Delta]]
    ) -> AsyncIterator[bytes]:
        """Server-sent events. An error in the middle is told as one, and no [DONE] follows it."""
        async with aclosing(drawn):
            try:
                for chunk in reply.chunks(*first):
                    yield _event(chunk)
                async for index, delta in drawn:
                    for chunk in reply.chunks(index, delta):
                        yield _event(chunk)
            except HoneError as no:
                yield _event(refusal_of(no).body())
                return
            except Exception as fault:
                log.failure("".join(traceback.format_exception(fault)))
                yield _event(error_body(500, f"the server failed: {type(fault).__name__}; its log tells more"))
                return
            for chunk in reply.last():
                yield _event(chunk)
            self._count(reply)
            yield b"data: [DONE]\n\n"

    def _count(self, reply: Reply) -> None:
        usage = reply.usage()
        self._metrics.add("hone_prompt_tokens_total", usage["prompt_tokens"])
        self._metrics.add("hone_answer_tokens_total", usage["completion_tokens"])


class Events(StreamingResponse):
    """Server-sent events, closed at once when the client leaves."""

    def __init__(self, events: AsyncIterator[bytes]):
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        async with aclosing(self._events):
            await super().__call__(scope, receive, send)


def _drawn(engine: Engine, requests: Sequence[Request]) -> Iterator[tuple[int, Delta]]:
    """The deltas of each answer with its number: in turn of answers that are drawn at once, else one answer behind the other."""
    left = list(enumerate(requests))
    while left:
        now, left = left[: engine.num_together], left[engine.num_together :]
        with ExitStack() as open:
            growing = [(index, open.enter_context(closing(engine.generate(request)))) for index, request in now]
            while growing:
                told = [(index, deltas, delta) for index, deltas in growing if (delta := next(deltas, None)) is not None]
                yield from ((index, delta) for index, _, delta in told)
                growing = [(index, deltas) for index, deltas, _ in told]


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n\n"
