"""EmbeddedSampler: rollouts by the very module that is trained, with transformers' `generate` and its caches.

Does not know optimizers or batches of training. Axes: B prompt, T token, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from hone.inference.drawing import left_padded
from hone.inference.rollout import Drawn, Prompt, Sampling
from hone.inference.sampling import quiet_routers


class EmbeddedSampler:
    """`EmbeddedSampler(causal).draw(prompts, sampling)`; causal: the trained model itself, adapters on, without DDP around it.

    batch_size: prompts drawn together. Dropout is off while it draws; the module's modes are put back, also after an error.
    """

    def __init__(self, causal: PreTrainedModel, *, batch_size: int = 16):
        self._causal, self._batch_size = causal, batch_size

    def refresh(self) -> None:
        """Nothing to do: it is the same module."""

    def close(self) -> None:
        """Nothing to do: whoever trains the module keeps it."""

    def draw(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Drawn]:
        """One answer a prompt, in order, drawn in left-padded batches of prompts of like length."""
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index].ids))
        answers: dict[int, Drawn] = {}
        with as_engine(self._causal):
            for start in range(0, len(order), self._batch_size):
                batch = order[start : start + self._batch_size]
                answers |= zip(batch, _draw_batch(self._causal, [prompts[index] for index in batch], sampling), strict=True)
        return [answers[index] for index in range(len(prompts))]


@contextmanager
def as_engine(causal: PreTrainedModel) -> Iterator[None]:
    """The model as one that answers: no dropout, no gradient, a cache; every submodule's mode is put back afterwards."""
    modes = {inner: inner.training for inner in causal.modules()}
    uses_cache, own, routed = causal.config.use_cache, causal.generation_config, quiet_routers(causal)
    causal.eval()  # layers that recompute activations refuse a cache in training mode alone
    causal.config.use_cache, causal.generation_config = True, GenerationConfig()
    try:
        with torch.no_grad():
            yield
    finally:
        causal.config.use_cache, causal.generation_config = uses_cache, own
        if routed:
            causal.config.get_text_config().output_router_logits = True
        for inner, mode in modes.items():
            inner.training = mode


class _Draw(LogitsProcessor):
    """Draws each next token itself, by one number a token that its prompt's seed alone gives, and leaves `generate` no choice.

    `generate` draws for a whole batch from one stream of random numbers: an answer would change with its neighbours.
    """

    def __init__(self, prompts: Sequence[Prompt], sampling: Sampling):
        numbers = [torch.rand(sampling.num_new, generator=torch.Generator().manual_seed(one.seed)) for one in prompts]
        self._uniform_BT = torch.stack(numbers)
        self._temperature = TemperatureLogitsWarper(sampling.temperature) if sampling.temperature != 1 else None
        self._cuts = LogitsProcessorList()
        if sampling.top_k:
            self._cuts.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1:
            self._cuts.append(TopPLogitsWarper(sampling.top_p))
        self.logprobs: list[Tensor] = []
        self.drawn_logprobs: list[Tensor] = []
        self.entropies: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        logits_BV = scores.float()
        if self._temperature is not None:
            logits_BV = self._temperature(input_ids, logits_BV)
        cut_BV = torch.log_softmax(self._cuts(input_ids, logits_BV), dim=-1)
        uniform_B = self._uniform_BT[:, len(self.logprobs)].to(cut_BV.device)
        token_B1 = choose(cut_BV, uniform_B).unsqueeze(-1)
        logprobs_BV = torch.log_softmax(logits_BV, dim=-1)
        self.logprobs.append(logprobs_BV.gather(-1, token_B1).squeeze(-1))
        self.entropies.append(-(logprobs_BV.exp() * logprobs_BV).sum(-1))
        self.drawn_logprobs.append(cut_BV.gather(-1, token_B1).squeeze(-1))
        return torch.full_like(scores, -torch.inf).scatter_(-1, token_B1, 0.0)


def choose(logprobs_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """int64 [B]: the token at whose share of [0, 1) each number falls, the tokens laid end to end by their probability."""
    precise = torch.float32 if logprobs_BV.device.type == "mps" else torch.float64
    upto_BV = logprobs_BV.to(precise).exp().cumsum(-1)
    # The last sum is 1 but for rounding: scaled by it, the number falls on a token that can be drawn.
    wanted_B1 = (uniform_B.to(precise) * upto_BV[:, -1]).unsqueeze(-1)
    return torch.searchsorted(upto_BV, wanted_B1, right=True).squeeze(-1)


def _draw_batch(causal: nn.Module, prompts: list[Prompt], sampling: Sampling) -> list[Drawn]:
    ids_BT, mask_BT = left_padded([one.ids for one in prompts], sampling.pad_id)
    settings = GenerationConfig(
        do_sample=False, max_new_tokens=sampling.num_new, eos_token_id=list(sampling.stop_ids), pad_token_id=sampling.pad_id
    )
    draw, device = _Draw(prompts, sampling), causal.device
    out_BT = causal.generate(
        input_ids=ids_BT.to(device),
        attention_mask=mask_BT.to(device),
        generation_config=settings,
        logits_processor=LogitsProcessorList([draw]),
    )
    new_BT = out_BT[:, ids_BT.shape[1] :].cpu().numpy().astype(np.int32)
    figures = (torch.stack(found, dim=1).cpu().numpy() for found in (draw.logprobs, draw.drawn_logprobs, draw.entropies))
    return [_upto_stop(*row, sampling=sampling) for row in zip(new_BT, *figures, strict=True)]


def _upto_stop(ids: np.ndarray, *figures: np.ndarray, sampling: Sampling) -> Drawn:
    """One answer without what follows its stop token in the batch."""
    stops = np.flatnonzero(np.isin(ids, sampling.stop_ids))
    end = int(stops[0]) + 1 if len(stops) else len(ids)
    logprobs, drawn_logprobs, entropies = (figure[:end] for figure in figures)
    return Drawn(ids[:end], logprobs, drawn_logprobs, bool(len(stops)), entropies)
