"""Routes: what each path is answered with.

Does not know who may ask, nor how a model is loaded.
"""

from __future__ import annotations

import base64
import sys
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, TypeVar

from hone.serving.answers import ChatChoice, TextChoice
from hone.serving.asked import chat_requests, completion_requests
from hone.serving.connected import while_connected
from hone.serving.desk import Desk
from hone.serving.protocol import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    LoadAdapter,
    ScoreRequest,
    UnloadAdapter,
)
from hone.serving.refusal import Refusal
from hone.serving.replies import Replies
from hone.serving.shapes import Card, Cards, ChatCompletion, Completion, Embeddings, LetGo, Scores, documented
from hone.serving.turns import taken_in_turn
from hone.serving.web import APIRouter, JSONResponse, PlainTextResponse, Response
from hone.serving.web import Request as Http

T = TypeVar("T")

OF_KEY = {401: "The key is missing or wrong.", 403: "The request names another host than this machine."}
OF_NAME = OF_KEY | {404: "No such model."}
OF_WORK = OF_NAME | {
    400: "A field that is unknown, wrong, or asks for what this server does not do.",
    405: "This server's model cannot do it.",
    413: "The body is too large.",
    429: "Too many requests wait; Retry-After tells when to come again.",
    500: "The server failed; its log tells more.",
    503: "No turn was free in time; Retry-After tells when to come again.",
    504: "The answer took too long and was stopped.",
}


class Routes:
    """`Routes(...).router()`; one for each app."""

    def __init__(self, desk: Desk):
        self._desk = desk
        self._served, self._terms, self._turns, self._metrics = desk.served, desk.terms, desk.turns, desk.metrics
        self._replies = Replies(desk)

    def router(self) -> APIRouter:
        """Every path."""
        router = APIRouter()
        router.add_api_route("/v1/models", self.models, methods=["GET"], responses=documented(Cards, OF_KEY))
        router.add_api_route("/v1/models/{name:path}", self.model, methods=["GET"], responses=documented(Card, OF_NAME))
        for path, answer, shape in (
            ("/v1/chat/completions", self.chat, ChatCompletion),
            ("/v1/completions", self.completion, Completion),
            ("/v1/embeddings", self.embedding, Embeddings),
            ("/v1/score/evaluation", self.evaluation, Scores),
        ):
            responses = documented(shape, OF_WORK)
            router.add_api_route(path, answer, methods=["POST"], responses=responses, response_model=None)
        for path, done, shape in (("/v1/load_lora_adapter", self.load, Card), ("/v1/unload_lora_adapter", self.unload, LetGo)):
            router.add_api_route(path, done, methods=["POST"], responses=documented(shape, OF_WORK), response_model=None)
        router.add_api_route("/health", self.health, methods=["GET"])
        router.add_api_route("/metrics", self.page, methods=["GET"], response_class=PlainTextResponse)
        return router

    async def health(self) -> dict[str, str]:
        """Whether the server answers."""
        return {"status": "ok"}

    async def page(self) -> PlainTextResponse:
        """Counts for Prometheus."""
        now = {"hone_requests_running": self._turns.running, "hone_requests_waiting": self._turns.waiting}
        return PlainTextResponse(self._metrics.page(**now), media_type="text/plain; version=0.0.4")

    async def models(self) -> dict[str, Any]:
        """The model, and the adapters beside it."""
        return {"object": "list", "data": [self._card(name) for name in self._desk.names]}

    async def model(self, name: str) -> dict[str, Any]:
        """The model by its name."""
        self._desk.adapter(name)
        return self._card(name)

    async def chat(self, asked: ChatRequest, http: Http) -> Response:
        """The next message of a conversation, whole or streamed."""
        adapter = self._desk.adapter(asked.model)
        engine = self._require(self._served.engine, "answers")
        media = await while_connected(http, self._desk.media.read(asked))
        requests = chat_requests(asked, self._terms, adapter, media)
        choices = [ChatChoice(index, request) for index, request in enumerate(requests)]
        return await self._replies.give(asked, http, engine, requests, choices, "chat.completion", "chat.completion.chunk")

    async def completion(self, asked: CompletionRequest, http: Http) -> Response:
        """What follows a text, whole or streamed."""
        adapter = self._desk.adapter(asked.model)
        engine = self._require(self._served.engine, "answers")
        requests = completion_requests(asked, self._terms, adapter)
        echoes = [str(request.conversation) if asked.echo else "" for request in requests]
        choices = [TextChoice(index, one, echo=echo) for index, (one, echo) in enumerate(zip(requests, echoes, strict=True))]
        return await self._replies.give(asked, http, engine, requests, choices, "text_completion", "text_completion")

    async def embedding(self, asked: EmbeddingRequest, http: Http) -> Response:
        """A vector for each text."""
        self._desk.adapter(asked.model)
        embed = self._require(self._served.embed, "vectors")
        texts = [asked.input] if isinstance(asked.input, str) else asked.input
        self._require_few(texts, "input")
        vectors = await self._once(http, lambda: embed(texts, bool(asked.is_query)))
        self._metrics.add("hone_prompt_tokens_total", vectors.num_tokens)
        rows = [_base64(row) if asked.encoding_format == "base64" else row for row in vectors.rows]
        data = [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)]
        usage = {"prompt_tokens": vectors.num_tokens, "total_tokens": vectors.num_tokens}
        return JSONResponse({"object": "list", "data": data, "model": self._served.name, "usage": usage})

    async def evaluation(self, asked: ScoreRequest, http: Http) -> Response:
        """A reward model's number for each text."""
        if asked.model != "model":  # what LLaMA-Factory's and hone's own PPO write
            self._desk.adapter(asked.model)
        score = self._require(self._served.score, "scores")
        self._require_few(asked.messages, "messages")
        scores = await self._once(http, lambda: score(asked.messages, asked.max_length))
        return JSONResponse(
            {"id": f"scoreval-{time.time_ns():x}", "object": "score.evaluation", "model": self._served.name, "scores": scores}
        )

    async def load(self, asked: LoadAdapter, http: Http) -> Response:
        """Take an adapter in, for the requests that write its name as model."""
        engine, folder = self._require(self._served.engine, "answers"), self._terms.limits.api_adapter_folder
        if folder is None:
            raise Refusal(403, "this server takes in no adapters while it runs (api_adapter_folder)", param="lora_path")
        place, home = Path(folder, asked.lora_path).resolve(), Path(folder).resolve()
        if not place.is_relative_to(home) or not place.is_dir():
            raise Refusal(403, "lora_path is no folder under the server's api_adapter_folder", param="lora_path")
        if asked.lora_name == self._served.name:
            raise Refusal(400, f"{asked.lora_name} is the name of the model itself", param="lora_name")
        await self._once(http, lambda: engine.add_adapter(asked.lora_name, str(place)))
        return JSONResponse(self._card(asked.lora_name))

    async def unload(self, asked: UnloadAdapter) -> Response:
        """Let an adapter go; answers that have begun with it come to their end."""
        engine = self._require(self._served.engine, "answers")
        if self._terms.limits.api_adapter_folder is None:
            raise Refusal(403, "this server lets no adapters go while it runs (api_adapter_folder)", param="lora_name")
        if asked.lora_name not in self._desk.adapters:
            raise Refusal(404, f"there is no adapter {asked.lora_name[:200]!r} here", param="lora_name", code="model_not_found")
        engine.remove_adapter(asked.lora_name)
        return JSONResponse({"id": asked.lora_name, "object": "model", "deleted": True})

    def _card(self, name: str) -> dict[str, Any]:
        card = {"id": name, "object": "model", "created": self._served.created, "owned_by": "hone"}
        return card if name == self._served.name else card | {"parent": self._served.name}

    def _require(self, ability: T | None, what: str) -> T:
        if ability is None:
            gives = next(word for word, one in self._abilities().items() if one is not None)
            raise Refusal(405, f"this server's model gives {gives} and no {what}", code="not_this_model")
        return ability

    def _abilities(self) -> dict[str, object]:
        return {"answers": self._served.engine, "vectors": self._served.embed, "scores": self._served.score}

    def _require_few(self, texts: Sequence[str], param: str) -> None:
        most = self._terms.limits.api_max_messages
        if not 0 < len(texts) <= most:
            raise Refusal(400, f"{len(texts)} texts; this server reads 1 to {most} at once (api_max_messages)", param=param)

    async def _once(self, http: Http, work: Callable[[], T]) -> T:
        """What `work` gives, once it is its turn."""

        def one() -> Iterator[T]:
            yield work()

        async def first() -> T:
            async with aclosing(taken_in_turn(one, self._turns, self._terms.limits.api_timeout)) as items:
                return await anext(items)

        return await while_connected(http, first())


def _base64(row: list[float]) -> str:
    """Four bytes a number, lowest first, as OpenAI's clients read them."""
    numbers = array("f", row)
    if sys.byteorder == "big":
        numbers.byteswap()
    return base64.b64encode(numbers.tobytes()).decode()
