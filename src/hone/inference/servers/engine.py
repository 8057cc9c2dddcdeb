"""ServerEngine: answers by a server in an environment of its own; hone's codec writes the prompt and reads the answer.

Does not know any server's protocol, nor how one is started.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import replace
from functools import partial

from hone.adapters.folder import AdapterFolder
from hone.adapters.several import require_plain
from hone.chat.codec import Codec
from hone.chat.message import Conversation
from hone.chat.opening import call_openings
from hone.errors import ModelError
from hone.inference.adapters import Adapters
from hone.inference.asked import Asked
from hone.inference.base import Answer, Choice, Request, Token
from hone.inference.hf import HfEngine
from hone.inference.rollout import seed_of
from hone.inference.servers.ask import Ask, Client, Said


class ServerEngine(HfEngine):
    """An HfEngine whose tokens a server draws. Stop texts, tools, thoughts and openings are read and kept to here, as with it.

    num_together: requests under way at once; the server batches them by itself. base: the adapter that stands for the base, ""
    for none, which it takes (require_room). largest_rank: of adapters; None for any.
    """

    def __init__(
        self,
        client: Client,
        codec: Codec,
        *,
        num_together: int,
        base: AdapterFolder | None = None,
        largest_rank: int | None = None,
    ):
        self._client, self.num_together, self._largest_rank = client, num_together, largest_rank
        self._base = ""
        self._adapters = Adapters(lambda: _AtServer(client))
        self._begin(codec, limit=client.limit, size=len(codec.tokenizer))
        if base is not None:
            client.load_adapter(_BASE, base.path)
            self._base = _BASE

    @property
    def media(self) -> frozenset[str]:
        """None: a server is asked in token ids."""
        return frozenset()

    def add_adapter(self, name: str, place: str) -> None:
        """See Engine."""
        self._adapters.add(name, place, fits=partial(require_room, largest_rank=self._largest_rank))

    def remove_adapter(self, name: str) -> None:
        """See Engine."""
        self._adapters.remove(name)
        self._adapters.tidy()

    def generate_many(self, requests: Sequence[Request], *, batch_size: int = 16) -> list[Answer]:
        """Whole answers in the order of the requests, `batch_size` of them under way at once."""
        with ThreadPoolExecutor(batch_size) as pool:
            return list(pool.map(self._whole, requests))

    def _whole(self, request: Request) -> Answer:
        answers = [delta.answer for delta in self.generate(request) if delta.answer is not None]
        return answers[-1]

    def _drawn(self, request: Request, asked: Asked, num_new: int) -> Iterator[tuple[int, Token | None]]:
        prompt = asked.ids
        self._require(request, prompt)
        self._adapters.tidy()
        ask = Ask(
            prompt,
            num_new,
            self.codec.stop_ids,
            request.settings,
            replace(request.steering, functions=(), json_schema=""),
            seed=None if request.seed is None else request.seed % 2**63,
            adapter=request.adapter or self._base,
        )
        for said in self._stretches(request, prompt, ask):
            yield said.id, self._token(said)

    def _require(self, request: Request, prompt: list[int]) -> None:
        """Raise ModelError for what no server can do."""
        if isinstance(request.conversation, Conversation) and request.conversation.media:
            raise ModelError("images, video and audio: a server is asked in token ids; write infer_backend: huggingface")
        if request.settings.num_beams > 1:
            raise ModelError("num_beams above 1: a beam search is not drawn by a server; write num_beams: 1")
        steering, codec = request.steering, self._codec(request)
        in_parts = steering.functions or (steering.json_schema and codec.thought_is_open(prompt))
        if in_parts and (steering.presence_penalty or steering.frequency_penalty):
            raise ModelError(
                "presence_penalty, frequency_penalty: an answer that must call a function, or that is held to a schema behind a "
                "thought, is asked of the server in parts, over which it does not count; leave them out"
            )
        self._client.refuse(request)

    def _stretches(self, request: Request, prompt: list[int], ask: Ask) -> Iterator[Said]:
        """The answer: how it must begin, a thought that no schema holds, and the rest; each behind the ids before it."""
        codec, asked, drawn = self._codec(request), request.steering, []
        stretches: list[tuple[Iterator[Said], Callable[[], bool]]] = []

        def behind(**changes: object) -> Ask:
            seed = ask.seed if ask.seed is None or not drawn else seed_of(ask.seed, len(drawn))
            return replace(ask, ids=prompt + drawn, num_new=ask.num_new - len(drawn), seed=seed, **changes)

        if asked.functions:
            assert isinstance(request.conversation, Conversation), "a text that is continued calls nothing"
            beginnings = call_openings(codec, request.conversation, asked.functions)
            stretches.append((self._opening(beginnings, behind), lambda: False))
        if asked.json_schema and codec.thought_is_open(prompt):
            stretches.append((self._free(behind), lambda: codec.thought_is_closed(drawn)))
        stretches.append((self._free(behind, asked.json_schema), lambda: False))
        for stretch, is_over in stretches:
            with closing(stretch) as tokens:
                for said in tokens:
                    drawn.append(said.id)
                    yield said
                    if is_over():
                        break
            if len(drawn) == ask.num_new or (drawn and drawn[-1] in ask.stop_ids):
                return

    def _free(self, behind: Callable[..., Ask], json_schema: str = "") -> Iterator[Said]:
        yield from self._client.draw(behind(json_schema=json_schema))

    def _opening(self, beginnings: list[list[int]], behind: Callable[..., Ask]) -> Iterator[Said]:
        """One of `beginnings`, whichever the model finds likeliest token by token; what is certain is asked of nobody."""
        while all(beginnings):
            allowed = tuple(sorted({one[0] for one in beginnings}))
            ask = behind(allowed=allowed)
            if ask.num_new == 0:
                return
            certain = len(allowed) == 1 and ask.steering.num_top is None
            (said,) = [Said(allowed[0])] if certain else list(self._client.draw(replace(ask, num_new=1)))
            yield said
            beginnings = [one[1:] for one in beginnings if one[0] == said.id]

    def _token(self, said: Said) -> Token | None:
        if said.logprob is None:
            return None
        name = self.codec.text_of
        return Token(name([said.id]), said.logprob, tuple(Choice(name([id]), value) for id, value in said.top))


def require_room(folder: AdapterFolder, *, largest_rank: int | None) -> None:
    """Raise ModelError for an adapter that a server does not take. largest_rank: as of ServerEngine."""
    require_plain(folder)
    rank = rank_of(folder)
    if largest_rank is not None and rank > largest_rank:
        raise ModelError(f"{folder.path} has rank {rank}; write vllm_max_lora_rank: {rank} or more")


def rank_of(folder: AdapterFolder) -> int:
    """The largest of an adapter's ranks."""
    return max([int(folder.config.get("r", 0)), *map(int, (folder.config.get("rank_pattern") or {}).values())])


_BASE = "hone-base"
"""The name, at a server, of the adapter that stands for the base."""


class _AtServer:
    """Adapters that a server holds; each request names its own."""

    def __init__(self, client: Client):
        self._client = client
        self._names: dict[str, None] = {}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._names)

    def add(self, name: str, folder: AdapterFolder) -> None:
        self._client.load_adapter(name, folder.path)
        self._names[name] = None

    def remove(self, name: str) -> None:
        self._client.unload_adapter(name)
        del self._names[name]

    def rows(self, names: Sequence[str]) -> AbstractContextManager[None]:
        return nullcontext()
