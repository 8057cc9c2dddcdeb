"""A live server on a free port around any engine, and an engine that says what a test tells it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import httpx2
import openai

from hone.chat.codec import Codec
from hone.chat.message import Conversation, Media
from hone.config.api import ApiConfig
from hone.config.generate import GenerateConfig
from hone.inference.base import Answer, Delta, Request
from hone.inference.hearing import Hearing
from hone.serving.app import Site, build_app
from hone.serving.asked import Terms
from hone.serving.desk import Served
from hone.serving.server import open_socket, serve

NAME = "tiny"


@dataclass
class Scripted:
    """Says the ids of `script`, one at a time, `pause()` before each; notes what was asked and how many answers were left."""

    codec: Codec
    script: str = "Hello there."
    pause: Callable[[], object] = lambda: None
    num_together: int = 1
    asked: list[Request] = field(default_factory=list)
    num_left: int = 0
    num_drawn: int = 0
    adapters: tuple[str, ...] = ()
    media: frozenset[str] = frozenset()

    @property
    def thinks_on_demand(self) -> bool:
        return self.codec.thinks_on_demand

    def add_adapter(self, name: str, place: str) -> None:
        assert name not in self.adapters
        self.adapters += (name,)

    def remove_adapter(self, name: str) -> None:
        self.adapters = tuple(one for one in self.adapters if one != name)

    def generate(self, request: Request) -> Iterator[Delta]:
        self.asked.append(request)
        text = isinstance(request.conversation, str)
        codec = self.codec.asked_to_think(request.thinks)
        prompt = codec.text_prompt(request.conversation) if text else codec.prompt(_told(request.conversation))
        hearing = Hearing(codec, request, prompt)
        finished = False
        try:
            for token in [*self.codec.tokenizer.encode(self.script, add_special_tokens=False), self.codec.stop_ids[0]]:
                self.pause()
                if len(hearing.ids) == request.settings.max_new_tokens:
                    break
                self.num_drawn += 1
                yield hearing.take(token)
                if hearing.ended:
                    break
            last, stopped = hearing.rest(), hearing.ended or hearing.ids[-1] == self.codec.stop_ids[0]
            answer = Answer(hearing.message, "stop" if stopped else "length", len(prompt), len(hearing.ids))
            finished = True
            yield Delta(last.text, answer, last.events)
        finally:
            self.num_left += not finished

    def generate_many(self, requests):
        raise AssertionError("the server asks for one at a time")


def _told(conversation: Conversation) -> Conversation:
    """Without media: what is said of them is the script's matter."""
    kept = [replace(one, parts=tuple(part for part in one.parts if not isinstance(part, Media))) for one in conversation.messages]
    return replace(conversation, messages=tuple(kept))


@dataclass(frozen=True)
class Live:
    """A running server."""

    url: str
    client: openai.OpenAI
    http: httpx2.Client


@contextmanager
def live(
    served: Served,
    *,
    settings: GenerateConfig | None = None,
    key: str = "",
    num_running: int = 1,
    site: Site | None = None,
    **limits: object,
) -> Iterator[Live]:
    """The server, until the block ends; its answers have then come to their end."""
    terms = Terms(settings or GenerateConfig(max_new_tokens=200), ApiConfig(**limits))
    app = build_app(served, terms, key=key, num_running=num_running, site=site)
    servers = []
    with open_socket("127.0.0.1", 0, key=key) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        options = {"name": NAME, "seconds": 5, "tells": False, "started": servers.append}
        thread = threading.Thread(target=serve, args=(app, listening), kwargs=options, daemon=True)
        thread.start()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        with (
            openai.OpenAI(base_url=f"{url}/v1", api_key=key or "none", max_retries=0) as client,
            httpx2.Client(base_url=url, headers=headers, timeout=30) as http,
        ):
            try:
                yield Live(url, client, http)
            finally:
                servers[0].should_exit = True
                thread.join(timeout=20)
                assert not thread.is_alive()


def until(holds: Callable[[], bool], seconds: float = 10) -> None:
    """Wait until it holds; fail where it does not come true."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.005)
