"""Rows: answers that are drawn together, one token of each at a time; they join and leave between two tokens.

Does not know conversations or text. A row's padding is on its left: the keys and values of all rows end at the same place.

Axes: B row, T token, V vocabulary, H heads, D width of a head.
"""

from __future__ import annotations

import inspect
import secrets
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.cache_utils import DynamicLayer

from hone.inference.asked import Asked
from hone.inference.embedded import choose
from hone.inference.steering import Steer
from hone.kernels.tolerance import rounding_of
from hone.models.forward import find_causal
from hone.models.media.sight import Sight

_PROMPTS = (5, 3, 7)
"""Lengths of the self-test's prompts."""

Adapted = Callable[[list[str]], AbstractContextManager[None]]


class CannotBatch(Exception):
    """The model keeps something else than the keys and values of each token, or its forward reads no padding."""


class Row:
    """One answer in the making. ids: prompt and drawn tokens; settings: how they are drawn, and where it ends.

    Draws by its own seed (None: a new one), one number a token, so that no neighbour changes what it draws. fault: what kept it
    from drawing its next token. behind: how much less the places of drawn tokens are than their numbers.
    """

    def __init__(
        self,
        asked: Asked,
        settings: GenerationConfig,
        *,
        seed: int | None,
        steer: Steer | None = None,
        adapter: str = "",
    ):
        self.ids, self._num_prompt, self._settings, self._steer = list(asked.ids), len(asked.ids), settings, steer
        self.adapter, self.shown, self.behind = adapter, asked.shown, 0
        self._random = torch.Generator().manual_seed(secrets.randbits(63) if seed is None else seed % 2**64)
        self.fault: Exception | None = None
        self._cuts = LogitsProcessorList()
        if settings.do_sample:
            self._cuts += [TemperatureLogitsWarper(settings.temperature)] if settings.temperature != 1 else []
            self._cuts += [TopKLogitsWarper(settings.top_k)] if settings.top_k else []
            self._cuts += [TopPLogitsWarper(settings.top_p)] if settings.top_p < 1 else []

    def draw(self, logits_1V: Tensor) -> None:
        """One more token, out of the logits behind the last one."""
        if self._steer is not None:
            logits_1V = self._steer(torch.tensor([self.ids], device=logits_1V.device), logits_1V)
        if self._settings.do_sample:
            cut_1V = torch.log_softmax(self._cuts(None, logits_1V.float()), dim=-1)
            token = int(choose(cut_1V, torch.rand(1, generator=self._random).to(cut_1V.device)))
        else:
            token = int(logits_1V.argmax())
        if self._steer is not None:
            self._steer.note(token)
        self.ids.append(token)

    @property
    def done(self) -> bool:
        """Whether its last token is the answer's last."""
        num_new = len(self.ids) - self._num_prompt
        return num_new >= self._settings.max_new_tokens or (num_new > 0 and self.ids[-1] in self._settings.eos_token_id)


class Rows:
    """`join(row)` reads a row's prompt and draws its first token, `step()` draws one for each, `keep(rows)` lets others go.

    adapted: what is held while rows of these adapters are computed; without it all are the base's.
    """

    def __init__(self, module: nn.Module, adapted: Adapted = nullcontext):
        self._module, self._adapted = module, adapted
        causal = find_causal(module)
        self._sight = Sight.of(causal)
        forward = inspect.signature(causal.forward).parameters
        self._last = {"logits_to_keep": 1} if "logits_to_keep" in forward else {}  # a prompt's other logits need gigabytes
        self.rows: list[Row] = []
        self._cache = DynamicCache()
        self._mask_BT = torch.zeros(0, 0, dtype=torch.int64)

    @torch.inference_mode()
    def join(self, row: Row) -> None:
        """Read its prompt and draw its first token. Raises: CannotBatch."""
        device = self._module.device
        ids_1T = torch.tensor([row.ids], device=device)
        cache = DynamicCache(config=self._module.config.get_text_config(decoder=True))
        mask_1T = torch.ones_like(ids_1T)
        with self._adapted([row.adapter]):
            out = self._module(
                input_ids=ids_1T,
                attention_mask=mask_1T,
                past_key_values=cache,
                use_cache=True,
                **self._seen(row, ids_1T),
                **self._last,
            )
        if any(type(layer) is not DynamicLayer or layer.keys.shape[-2] != len(row.ids) for layer in cache.layers):
            raise CannotBatch("its cache holds other things than keys and values of each token")
        row.draw(out.logits[:, -1])
        if self.rows:
            self._put_below(cache)
        else:
            self._cache, self._mask_BT = cache, mask_1T
        self.rows.append(row)

    @torch.inference_mode()
    def step(self) -> None:
        """Draw the next token of each row."""
        if not self.rows:
            return
        logits_BV = self._logits([row.ids[-1] for row in self.rows])
        for number, row in enumerate(self.rows):
            try:
                row.draw(logits_BV[number : number + 1])
            except Exception as fault:  # of its own steering, as a grammar that grows too large: the others go on
                row.fault = fault

    @torch.inference_mode()
    def keep(self, wanted: list[Row]) -> None:
        """Rows that are not wanted go; so do columns that are padding in all others."""
        numbers = [number for number, row in enumerate(self.rows) if row in wanted]
        if len(numbers) == len(self.rows):
            return
        self.rows = [self.rows[number] for number in numbers]
        if not self.rows:
            self._cache = DynamicCache()
            return
        mask_BT = self._mask_BT[numbers]
        start = int(mask_BT.argmax(dim=-1).min())
        self._mask_BT = mask_BT[:, start:]
        for layer in self._cache.layers:
            layer.keys, layer.values = layer.keys[numbers, :, start:], layer.values[numbers, :, start:]

    def _seen(self, row: Row, ids_1T: Tensor) -> dict[str, Any]:
        """What the forward of a prompt is given of its media, and where its tokens stand."""
        if self._sight is None:
            return {}
        shown = [{name: one.to(ids_1T.device) for name, one in row.shown.items()}]
        row.behind = self._sight.behind(ids_1T, shown[0])
        positions_1T = torch.arange(ids_1T.shape[1], device=ids_1T.device).unsqueeze(0)
        places = self._sight.places(ids_1T, torch.ones_like(ids_1T), positions_1T, shown)
        return {"position_ids": places, **self._sight.inputs(ids_1T, shown)}

    def _logits(self, tokens: list[int]) -> Tensor:
        """fp32 or the model's own [B, V], behind one more token of each row."""
        tokens_B1 = torch.tensor(tokens, device=self._mask_BT.device).unsqueeze(-1)
        places_B1 = self._mask_BT.sum(dim=-1, keepdim=True)
        if any(row.behind for row in self.rows):
            places_B1 = places_B1 - torch.tensor([[row.behind] for row in self.rows], device=places_B1.device)
        self._mask_BT = torch.cat([self._mask_BT, torch.ones_like(tokens_B1)], dim=-1)
        with self._adapted([row.adapter for row in self.rows]):
            out = self._module(
                input_ids=tokens_B1,
                attention_mask=self._mask_BT,
                position_ids=places_B1,
                past_key_values=self._cache,
                use_cache=True,
            )
        return out.logits[:, -1]

    def _put_below(self, cache: DynamicCache) -> None:
        """Another row's cache joins as the last row; the shorter side is padded on its left."""
        here, there = self._mask_BT.shape[-1], cache.get_seq_length()
        longest = max(here, there)
        mask_1T = torch.ones(1, there, dtype=self._mask_BT.dtype, device=self._mask_BT.device)
        self._mask_BT = torch.cat([_padded(self._mask_BT, longest, -1), _padded(mask_1T, longest, -1)])
        for ours, theirs in zip(self._cache.layers, cache.layers, strict=True):
            ours.keys = torch.cat([_padded(ours.keys, longest, -2), _padded(theirs.keys, longest, -2)])
            ours.values = torch.cat([_padded(ours.values, longest, -2), _padded(theirs.values, longest, -2)])


def why_not(module: nn.Module) -> str:
    """Why answers of this model cannot be drawn together; "" where they can. Milliseconds, on prompts of a few tokens.

    A row is held against the plain forward, and beside other neighbours against itself, which shows weak leaks in 16 bits too.
    """
    size = module.get_input_embeddings().weight.shape[0]
    first, second, third = ((torch.arange(1, length + 1) * 7919 % size).tolist() for length in _PROMPTS)
    try:
        alone_V, beside_V, moved_V = _plain(module, first), _beside(module, first, second), _beside(module, first, third)
    except CannotBatch as no:
        return str(no)
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError) as problem:
        return f"its forward reads no padded rows: {problem}"
    difference = max(float((beside_V - alone_V).abs().max()), 2 * float((beside_V - moved_V).abs().max()))
    largest = rounding_of(module.get_input_embeddings().weight.dtype)
    return "" if difference <= largest else f"a difference of {difference:.2g} in the self-test"


@torch.inference_mode()
def _plain(module: nn.Module, ids: list[int]) -> Tensor:
    """[V]: log-probs behind all ids, by one forward over them."""
    logits_BTV = module(input_ids=torch.tensor([ids], device=module.device), use_cache=False).logits
    return torch.log_softmax(logits_BTV[0, -1].float(), dim=-1)


@torch.inference_mode()
def _beside(module: nn.Module, ids: list[int], other: list[int]) -> Tensor:
    """[V]: the same behind the last id, drawn in rows beside `other`."""
    settings = GenerationConfig(do_sample=False, max_new_tokens=9, eos_token_id=[-1])
    rows = Rows(module)
    rows.join(Row(Asked(other), settings, seed=0))
    rows.join(Row(Asked(ids[:-1]), settings, seed=0))
    return torch.log_softmax(rows._logits([other[0], ids[-1]])[1].float(), dim=-1)


def _padded(tensor: Tensor, length: int, dim: int) -> Tensor:
    """With zeros before it up to `length`."""
    shape = list(tensor.shape)
    shape[dim] = length - shape[dim]
    return torch.cat([tensor.new_zeros(shape), tensor], dim=dim) if shape[dim] else tensor
