"""HfEngine: answers by a transformers model in this process, one request at a time or many in one batch.

Does not know how the model was loaded, nor where the answers go.

Axes: B requests of a batch, T tokens.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import torch
from torch import nn
from transformers import GenerationConfig

from hone.chat.codec import Codec
from hone.inference.base import Answer, Delta, Finish, Request
from hone.inference.drawing import drawn_batch, stream_ids
from hone.inference.sampling import answer_length, generation_config, quiet_routers


class HfEngine:
    """`for delta in HfEngine(module, codec).generate(request): print(delta.text, end="")`.

    module: in evaluation mode, on its device. One answer is drawn at a time; further callers wait.
    """

    def __init__(self, module: nn.Module, codec: Codec):
        self.module, self.codec = module, codec
        # The model's own file would fill in every number that a request leaves open, such as a penalty nobody asked for.
        self.module.generation_config = GenerationConfig()
        quiet_routers(module)
        self._special = frozenset(number for number, token in codec.tokenizer.added_tokens_decoder.items() if token.special)
        self._limit = module.config.get_text_config().to_dict().get("max_position_embeddings")
        self._turn = threading.Lock()

    def generate(self, request: Request) -> Iterator[Delta]:
        """The answer as it is drawn; closing the iterator stops the model.

        Raises: ModelError where the conversation is too long; TemplateError where it cannot be written.
        """
        prompt = self.codec.prompt(request.conversation)
        settings = self._settings(request, self._num_new(request, prompt))
        hidden = self._special if request.settings.skip_special_tokens else frozenset()
        words, ids = self.codec.stream(tools=request.conversation.tools, prompt=prompt, hidden=hidden), []
        with self._turn:
            for token in stream_ids(self.module, prompt, settings, seed=request.seed):
                ids.append(token)
                heard = words.feed([token])
                if heard.text or heard.events:
                    yield Delta(heard.text, events=heard.events)
        shown = "" if request.settings.skip_special_tokens else self._stop_text(ids)
        heard = words.close()
        yield Delta(heard.text + shown, self._answer(ids, request, prompt), heard.events)

    def generate_many(self, requests: Sequence[Request], *, batch_size: int = 16) -> list[Answer]:
        """Whole answers in the order of the requests, drawn in left-padded batches of requests with the same settings and room.

        A batch is drawn with the seed of its first request; greedily each answer is the one it gets alone.
        """
        prompts = [self.codec.prompt(request.conversation) for request in requests]
        kinds = [(one.settings.model_dump_json(), self._num_new(one, ids)) for one, ids in zip(requests, prompts, strict=True)]
        order = sorted(range(len(requests)), key=lambda i: (kinds[i], len(prompts[i])))
        answers: dict[int, Answer] = {}
        while order:
            alike = [i for i in order[:batch_size] if kinds[i] == kinds[order[0]]]
            order = order[len(alike) :]
            answers |= zip(alike, self._batch([requests[i] for i in alike], [prompts[i] for i in alike]), strict=True)
        return [answers[i] for i in range(len(requests))]

    def _batch(self, requests: list[Request], prompts: list[list[int]]) -> list[Answer]:
        longest = max(map(len, prompts))
        settings = self._settings(requests[0], self._num_new(requests[0], prompts[0]))
        pad = settings.pad_token_id
        ids_BT = torch.tensor([[pad] * (longest - len(ids)) + ids for ids in prompts], device=self.module.device)
        mask_BT = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts], device=self.module.device)
        with self._turn:
            out_BT = drawn_batch(self.module, ids_BT, mask_BT, settings, seed=requests[0].seed)
        return [
            self._answer(self._upto_stop(row), request, prompt)
            for row, request, prompt in zip(out_BT[:, longest:].tolist(), requests, prompts, strict=True)
        ]

    def _num_new(self, request: Request, prompt: list[int]) -> int:
        return answer_length(request.settings, len(prompt), self._limit)

    def _settings(self, request: Request, num_new: int) -> GenerationConfig:
        pad = self.codec.tokenizer.pad_token_id
        return generation_config(request.settings, num_new=num_new, stop_ids=self.codec.stop_ids, pad_id=pad)

    def _upto_stop(self, ids: list[int]) -> list[int]:
        """The ids of one answer of a batch: what follows its stop token is padding."""
        end = next((index for index, token in enumerate(ids) if token in self.codec.stop_ids), len(ids))
        return ids[: end + 1]

    def _stop_text(self, ids: list[int]) -> str:
        return self.codec.tokenizer.decode(ids[-1:]) if ids and ids[-1] in self.codec.stop_ids else ""

    def _answer(self, ids: list[int], request: Request, prompt: list[int]) -> Answer:
        full = self._limit is not None and len(prompt) + len(ids) >= self._limit
        finish: Finish = "stop" if ids and ids[-1] in self.codec.stop_ids else "context" if full else "length"
        return Answer(self.codec.parse(ids, tools=request.conversation.tools, prompt=prompt), finish, len(prompt), len(ids))
