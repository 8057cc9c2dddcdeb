"""HfEngine: answers by a transformers model in this process, one request at a time or many in one batch.

Does not know how the model was loaded, nor where the answers go.

Axes: B requests of a batch, T tokens.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace

from torch import nn
from transformers import GenerationConfig

from hone.adapters.several import Several
from hone.chat.codec import Codec
from hone.chat.message import Conversation
from hone.chat.opening import call_openings
from hone.errors import ModelError
from hone.inference.adapters import Adapters
from hone.inference.asked import Asked
from hone.inference.base import Answer, Delta, Finish, Request, Steering, Token
from hone.inference.drawing import drawn_batch, left_padded, stream_ids
from hone.inference.grammar import Grammar
from hone.inference.hearing import Hearing
from hone.inference.sampling import answer_length, generation_config, quiet_routers
from hone.inference.steering import Behind, Guide, Openings, Steer
from hone.models.forward import media_inputs


class HfEngine:
    """`for delta in HfEngine(module, codec).generate(request): print(delta.text, end="")`.

    module: in evaluation mode, on its device. One answer is drawn at a time; further callers wait.
    """

    num_together = 1

    def __init__(self, module: nn.Module, codec: Codec, *, base_name: str = ""):
        self.module, self._adapters = module, Adapters(lambda: Several(module, base_name))
        # The model's own file would fill in every number that a request leaves open, such as a penalty nobody asked for.
        self.module.generation_config = GenerationConfig()
        quiet_routers(module)
        limit = module.config.get_text_config().to_dict().get("max_position_embeddings")
        self._begin(codec, limit=limit, size=module.get_output_embeddings().weight.shape[0])

    def _begin(self, codec: Codec, *, limit: int | None, size: int) -> None:
        """What every engine of logits knows. limit: the longest text the model can hold, in tokens; size: V."""
        self.codec, self._limit, self._size = codec, limit, size
        self._special = frozenset(number for number, token in codec.tokenizer.added_tokens_decoder.items() if token.special)
        self._turn = threading.Lock()

    @property
    def adapters(self) -> tuple[str, ...]:
        """See Engine."""
        return self._adapters.names

    @property
    def thinks_on_demand(self) -> bool:
        """See Engine."""
        return self.codec.thinks_on_demand

    @property
    def media(self) -> frozenset[str]:
        """See Engine."""
        return self.codec.media

    def add_adapter(self, name: str, place: str) -> None:
        """See Engine."""
        with self._turn:
            self._adapters.add(name, place)

    def remove_adapter(self, name: str) -> None:
        """See Engine."""
        self._adapters.remove(name)

    def generate(self, request: Request) -> Iterator[Delta]:
        """The answer as it is drawn, a Delta a token; closing the iterator stops the model.

        Raises: ModelError where the conversation is too long; TemplateError where it cannot be written; either of them where an
        answer cannot be steered as asked.
        """
        asked = self._asked(request)
        prompt = asked.ids
        num_new = self._num_new(request, prompt)
        hearing = self._hearing(request, prompt)
        with self._adapters.using(request.adapter), closing(self._drawn(request, asked, num_new)) as drawn:
            for id, token in drawn:
                yield hearing.take(id, token)
                if hearing.ended:
                    break
        last, ids = hearing.rest(), hearing.ids
        answer = Answer(hearing.message, self._finish(ids, prompt, ended=hearing.ended), len(prompt), len(ids))
        yield replace(last, text=last.text + self._stop_text(ids, request), answer=answer)

    def _drawn(self, request: Request, asked: Asked, num_new: int) -> Iterator[tuple[int, Token | None]]:
        """The ids of an answer as they are drawn, each with what is told of it; closing it stops the model."""
        steer = self._steer(request, asked.ids)
        with closing(self._ids(request, asked, num_new, steer)) as ids:
            for id in ids:
                yield id, steer.told.popleft() if steer is not None and steer.told else None

    def _ids(self, request: Request, asked: Asked, num_new: int, steer: Steer | None) -> Iterator[int]:
        """The ids of an answer as they are drawn, the stop token included; closing it stops the model."""
        if asked.shown and request.settings.num_beams > 1:
            raise ModelError("num_beams above 1: no beam search is drawn of a conversation with media; write num_beams: 1")
        settings = self._settings(request, num_new, steered=steer is not None)
        with (
            self._turn,
            self._adapters.rows([request.adapter] * request.settings.num_beams),
            closing(stream_ids(self.module, asked, settings, seed=request.seed, steer=steer)) as drawn,
        ):
            yield from drawn

    def generate_many(self, requests: Sequence[Request], *, batch_size: int = 16) -> list[Answer]:
        """Whole answers in the order of the requests, drawn in left-padded batches of requests with the same settings and room.

        A batch is drawn with the seed of its first request; greedily each answer is the one it gets alone.
        """
        assert all(request.steering == Steering() for request in requests), "answers of a batch are not steered"
        assert not any(request.adapter for request in requests), "answers of a batch are the base's"
        asked = [self._asked(request) for request in requests]
        kinds = [(one.settings.model_dump_json(), self._num_new(one, it.ids)) for one, it in zip(requests, asked, strict=True)]
        order = sorted(range(len(requests)), key=lambda i: (kinds[i], len(asked[i].ids)))
        answers: dict[int, Answer] = {}
        while order:
            alike = [i for i in order[:batch_size] if kinds[i] == kinds[order[0]]]
            order = order[len(alike) :]
            answers |= zip(alike, self._batch([requests[i] for i in alike], [asked[i] for i in alike]), strict=True)
        return [answers[i] for i in range(len(requests))]

    def _batch(self, requests: list[Request], asked: list[Asked]) -> list[Answer]:
        prompts = [one.ids for one in asked]
        settings = self._settings(requests[0], self._num_new(requests[0], prompts[0]))
        ids_BT, mask_BT = (part.to(self.module.device) for part in left_padded(prompts, settings.pad_token_id))
        with self._turn:
            seen = media_inputs(self.module, ids_BT, [one.shown for one in asked])
            out_BT = drawn_batch(self.module, ids_BT, mask_BT, settings, seed=requests[0].seed, **seen)
        return [
            self._answer(self._upto_stop(row), request, prompt)
            for row, request, prompt in zip(out_BT[:, ids_BT.shape[1] :].tolist(), requests, prompts, strict=True)
        ]

    def _asked(self, request: Request) -> Asked:
        said, codec = request.conversation, self._codec(request)
        if isinstance(said, str):
            return Asked(codec.text_prompt(said))
        encoded = codec.encode_prompt(said)
        return Asked(encoded.ids.tolist(), encoded.shown.tensors())

    def _codec(self, request: Request) -> Codec:
        return self.codec.asked_to_think(request.thinks)

    def _num_new(self, request: Request, prompt: list[int]) -> int:
        return answer_length(request.settings, len(prompt), self._limit)

    def _settings(self, request: Request, num_new: int, *, steered: bool = False) -> GenerationConfig:
        pad = self.codec.tokenizer.pad_token_id
        settings = request.settings.model_copy(update={"repetition_penalty": 1.0}) if steered else request.settings
        return generation_config(settings, num_new=num_new, stop_ids=self.codec.stop_ids, pad_id=pad)

    def _steer(self, request: Request, prompt: list[int]) -> Steer | None:
        """What changes the logits of this answer; None where nothing does."""
        asked = replace(request.steering, stop=(), one_call=False)
        penalty, beams = request.settings.repetition_penalty, request.settings.num_beams > 1
        if asked == Steering() and (penalty == 1 or beams):
            return None
        if beams:
            raise ModelError("num_beams above 1: a beam search gives neither log-probs nor an answer that is held to anything")
        guide = self._guide(request, prompt)
        return Steer(asked, len(prompt), repetition_penalty=penalty, guide=guide, name=lambda id: self.codec.text_of([id]))

    def _guide(self, request: Request, prompt: list[int]) -> Guide | None:
        asked, conversation, codec = request.steering, request.conversation, self._codec(request)
        size = self._size
        if asked.functions:
            assert isinstance(conversation, Conversation), "a text that is continued calls nothing"
            return Openings(call_openings(codec, conversation, asked.functions), size)
        if not asked.json_schema:
            return None
        grammar = Grammar(codec, asked.json_schema, size)
        return Behind(grammar, codec.thought_is_closed) if codec.thought_is_open(prompt) else grammar

    def _upto_stop(self, ids: list[int]) -> list[int]:
        """The ids of one answer of a batch: what follows its stop token is padding."""
        end = next((index for index, token in enumerate(ids) if token in self.codec.stop_ids), len(ids))
        return ids[: end + 1]

    def _stop_text(self, ids: list[int], request: Request) -> str:
        hidden = request.settings.skip_special_tokens or not ids or ids[-1] not in self.codec.stop_ids
        return "" if hidden else self.codec.tokenizer.decode(ids[-1:])

    def _hearing(self, request: Request, prompt: list[int]) -> Hearing:
        hidden = self._special if request.settings.skip_special_tokens else frozenset()
        return Hearing(self._codec(request), request, prompt, hidden=hidden)

    def _answer(self, ids: list[int], request: Request, prompt: list[int]) -> Answer:
        hearing = self._hearing(request, prompt)
        for id in ids:
            hearing.take(id)
        hearing.rest()
        return Answer(hearing.message, self._finish(ids, prompt), len(prompt), len(ids))

    def _finish(self, ids: list[int], prompt: list[int], *, ended: bool = False) -> Finish:
        """ended: by a stop text or a call, before the model was done."""
        if ended or (ids and ids[-1] in self.codec.stop_ids):
            return "stop"
        full = self._limit is not None and len(prompt) + len(ids) >= self._limit
        return "context" if full else "length"
