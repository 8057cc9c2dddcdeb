"""Steer: what a request's Steering does to the logits of its answer, token by token, and the log-probs it asks to be told.

Does not know text, nor who draws. Axes: B = 1 answer, T token, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from transformers import LogitsProcessor, RepetitionPenaltyLogitsProcessor

from hone.errors import ModelError
from hone.inference.base import Choice, Steering, Token


class Guide(Protocol):
    """What keeps an answer inside something."""

    def allowed(self) -> Tensor | None:
        """bool [V]: what may come next; None for anything."""
        ...

    def take(self, token: int) -> None:
        """The token that was drawn."""
        ...


class Openings:
    """A Guide: the answer begins with one of `beginnings`, whichever the model finds likeliest token by token."""

    def __init__(self, beginnings: list[list[int]], size: int):
        self._left, self._size = beginnings, size

    def allowed(self) -> Tensor | None:
        """None once a beginning is complete."""
        if not all(self._left):
            return None
        mask_V = torch.zeros(self._size, dtype=torch.bool)
        mask_V[[one[0] for one in self._left]] = True
        return mask_V

    def take(self, token: int) -> None:
        """Beginnings that go on otherwise are out; without any left, nothing is asked any more."""
        if all(self._left):
            self._left = [one[1:] for one in self._left if one[0] == token] or [[]]


class Behind:
    """A Guide that begins with the token behind the one for which `begins` is true, as behind a thought."""

    def __init__(self, guide: Guide, begins: Callable[[list[int]], bool]):
        self._guide, self._begins = guide, begins
        self._ids: list[int] = []
        self._begun = False

    def allowed(self) -> Tensor | None:
        """None until then."""
        return self._guide.allowed() if self._begun else None

    def take(self, token: int) -> None:
        """The token that was drawn."""
        if self._begun:
            self._guide.take(token)
            return
        self._ids.append(token)
        self._begun = self._begins(self._ids)


class Steer(LogitsProcessor):
    """The first and only processor of the logits before temperature and cuts; for one answer behind `num_prompt` tokens.

    repetition_penalty: of tokens of prompt and answer, Keskar et al. 2019; the other penalties: of the answer's alone, as OpenAI
    defines them: logit[v] -= count[v] * frequency_penalty + (count[v] > 0) * presence_penalty.
    name: the text of an id. told: the tokens drawn, in order, where the request asks for log-probs. Raises: ModelError for a
    logit_bias of an id that the model does not have.
    """

    def __init__(
        self,
        steering: Steering,
        num_prompt: int,
        *,
        repetition_penalty: float = 1.0,
        guide: Guide | None = None,
        name: Callable[[int], str] = str,
    ):
        self._steering, self._num_prompt, self._guide, self._name = steering, num_prompt, guide, name
        self._repetition = RepetitionPenaltyLogitsProcessor(repetition_penalty) if repetition_penalty != 1 else None
        self._num_taken = 0
        self.told: deque[Token] = deque()
        self._logprobs_V: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """[1, V] of the next token; input_ids: int64 [1, T], prompt and answer so far."""
        asked, drawn_T = self._steering, input_ids[0, self._num_prompt :]
        if asked.num_top is not None:
            self._logprobs_V = torch.log_softmax(scores[0].float(), dim=-1)
        if self._repetition is not None:
            scores = self._repetition(input_ids, scores)
        if asked.presence_penalty or asked.frequency_penalty:
            count_V = torch.bincount(drawn_T, minlength=scores.shape[-1])
            scores = scores - (count_V * asked.frequency_penalty + (count_V > 0) * asked.presence_penalty).to(scores.dtype)
        if asked.logit_bias:
            scores = self._biased(scores)
        return scores if self._guide is None else self._guided(self._guide, drawn_T, scores)

    def note(self, drawn: int) -> None:
        """The token that was drawn from the last logits, before the next ones come; into `told` where that is asked for."""
        if self._steering.num_top is None:
            return
        assert self._logprobs_V is not None, "a token before its logits"
        best = self._logprobs_V.topk(self._steering.num_top)
        top = tuple(Choice(self._name(i), value) for i, value in zip(best.indices.tolist(), best.values.tolist(), strict=True))
        self.told.append(Token(self._name(drawn), float(self._logprobs_V[drawn]), top))

    def _biased(self, scores: Tensor) -> Tensor:
        ids = list(self._steering.logit_bias)
        if (largest := max(ids)) >= scores.shape[-1]:
            raise ModelError(f"logit_bias: there is no token {largest}; the model's ids end at {scores.shape[-1] - 1}")
        bias = torch.tensor(list(self._steering.logit_bias.values()), dtype=scores.dtype, device=scores.device)
        return scores.index_add(-1, torch.tensor(ids, device=scores.device), bias.unsqueeze(0))

    def _guided(self, guide: Guide, drawn_T: Tensor, scores: Tensor) -> Tensor:
        for token in drawn_T[self._num_taken :].tolist():
            guide.take(token)
        self._num_taken = len(drawn_T)
        allowed_V = guide.allowed()
        return scores if allowed_V is None else scores.masked_fill(~allowed_V.to(scores.device), -torch.inf)
