"""Attention of packed rows inside a transformers model: every sequence attends to itself, and no mask of the whole row is made.

Does not know the policy or the batch's room; which forms compute it is the kernels' affair.

A forward under `laid_out` makes its mask by transformers' interface of masks, as always, but what that hands to the layers is the
row's Layout, and the function of attention reads it there: it comes with each layer's arguments, also where a layer is computed
again in the backward pass. Both stand under the name "sdpa" and do what transformers' own do wherever no Layout is: under
another name several families take another way without a word (those with an indexer would drop it). The families whose own eager
attention does more than any kernel (soft-caps, sinks) compute it sequence by sequence, under a name that none of them looks at.

Axes: B row, H head, K head of keys and values, T token, D width.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask, sdpa_mask

from hone import log
from hone.errors import ModelError
from hone.kernels.packed_attention import Layout, by_piece, keys_seen
from hone.kernels.varlen_attention import form_for
from hone.models.context import Spread
from hone.models.quirks import EAGER_FAMILIES, READS_MASK, padded_only

EAGER = "eager_by_sequence"
"""transformers' name for the eager attention of the families in quirks.EAGER_FAMILIES."""
_BESIDE = ("softcap", "position_bias", "s_aux")
"""What a layer may want of its scores beyond a mask."""
_KEPT = "keeps_own_attention"
UNREAD = (RuntimeError, ValueError, TypeError, AttributeError, IndexError, KeyError)
"""What a forward raises that cannot read a Layout in the place of its mask."""
_laid: ContextVar[Layout | Spread | None] = ContextVar("the row of the forward that runs", default=None)


def keep_own(causal: nn.Module) -> None:
    """Leave the attention of this model to transformers, also in packed rows: the user has chosen it."""
    setattr(causal, _KEPT, True)


def name_eager(causal: PreTrainedModel) -> None:
    """Let sequences attend each by itself in the eager attention of this model's family, unless the user has chosen it."""
    text = causal.config.get_text_config()
    if text.model_type in EAGER_FAMILIES and text._attn_implementation == "eager" and not getattr(causal, _KEPT, False):
        causal.set_attn_implementation(EAGER)


def why_own(causal: PreTrainedModel) -> str:
    """Why the attention of this model is left to transformers, as far as that is known without trying; "" where it is not."""
    kind = causal.config.get_text_config()._attn_implementation
    if kind not in ("sdpa", EAGER):
        return f"its attention is {kind}"
    if getattr(causal, _KEPT, False):
        return "flash_attn: sdpa"
    return padded_only(causal.config) or READS_MASK.get(causal.config.get_text_config().model_type, "")


def layout_of(segments_BT: Tensor, positions_BT: Tensor) -> Layout:
    """How a packed row lies: out of its segments, of which data.batch tells.

    A beginning that sequences have in common is one piece with the first of them, and comes before each of the others.
    """
    numbers_N, counts_N = torch.unique_consecutive(segments_BT[0], return_counts=True)
    positions_N = positions_BT[0, counts_N.cumsum(0) - counts_N]
    lengths: list[int] = []
    given: list[int] = []
    givers: list[int] = []
    opened = False
    for number, count, position in torch.stack([numbers_N, counts_N, positions_N], dim=1).tolist():
        if opened:
            lengths[-1] += count
        else:
            giver = givers[-1] if position else len(lengths)
            lengths.append(count)
            given.append(position)
            givers.append(giver)
        opened = number < 0
    return Layout(tuple(lengths), tuple(given), tuple(givers))


@contextmanager
def laid_out(layout: Layout | Spread | None) -> Iterator[None]:
    """While it is held, a forward of this thread is of a row that lies so, or a part of it; None: transformers makes its mask."""
    token = _laid.set(layout)
    try:
        yield
    finally:
        _laid.reset(token)


def _mask(plain_mask: Callable[..., Any], **asked: Any) -> Layout | Spread | Tensor | None:
    """What stands for the mask of a layer: the row's layout, as far as the layer sees; else the mask that is asked for."""
    laid = _laid.get()
    told = laid is not None and asked["q_length"] == asked["kv_length"] == laid.tokens
    if not told or asked.get("use_vmap") or "allow_is_bidirectional_skip" in asked:
        return plain_mask(**asked)
    whole = laid.layout if isinstance(laid, Spread) else laid
    seen = _seen(whole, asked)
    if isinstance(laid, Spread):
        if seen is None:
            raise ModelError(f"context_parallel_size: layers that see {asked['local_size']} tokens cannot be cut; leave it out")
        return Spread(seen, laid.context)
    return plain_mask(**asked) if seen is None or (seen is whole and len(whole.lengths) == 1) else seen


def _seen(layout: Layout, asked: dict[str, Any]) -> Layout | None:
    """The layout as far as the layer sees; None where it needs a mask."""
    reach, config = asked.get("local_size"), asked["config"]
    if not reach or reach >= layout.longest:  # 0 is how some families write that they have no window
        return layout
    kinds = [name for name in ("sliding_window", "attention_chunk_size") if getattr(config, name, None) == reach]
    if len(kinds) != 1 or any(layout.given):
        log.once(f"layers of {config.model_type} that see {reach} tokens make a mask of all tokens by all; slower, same loss")
        return None
    return layout.within(reach) if kinds == ["sliding_window"] else layout.cut(reach)


def _attend(
    module: nn.Module,
    query_BHTD: Tensor,
    key_BKTD: Tensor,
    value_BKTD: Tensor,
    attention_mask: Layout | Spread | Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    if isinstance(attention_mask, Spread):
        context, scale = attention_mask.context, query_BHTD.shape[3] ** -0.5 if scaling is None else scaling
        parts = context.to_heads(*_in_one_type(query_BHTD, key_BKTD, value_BKTD))
        found_BTHD, _ = _attend(module, *parts, attention_mask.layout, dropout, scale, **more)
        return context.to_tokens(found_BTHD), None
    if not isinstance(attention_mask, Layout):
        return sdpa_attention_forward(
            module, query_BHTD, key_BKTD, value_BKTD, attention_mask, dropout=dropout, scaling=scaling, **more
        )
    wanted = [name for name in _BESIDE if more.get(name) is not None]
    if wanted:
        log.once(f"layers with {wanted[0]} make a mask of all tokens by all; slower, same loss")
        mask_BHTT = attention_mask.sees(query_BHTD.device)[None, None]
        return _attend(module, query_BHTD, key_BKTD, value_BKTD, mask_BHTT, dropout, scaling, **more)
    query_BHTD, key_BKTD, value_BKTD = _in_one_type(query_BHTD, key_BKTD, value_BKTD)
    scale = query_BHTD.shape[3] ** -0.5 if scaling is None else scaling
    form = form_for(query_BHTD, key_BKTD, value_BKTD, attention_mask, scale)
    if dropout or form is by_piece:
        return by_piece(query_BHTD, key_BKTD, value_BKTD, attention_mask, scale, dropout), None
    return form(query_BHTD, key_BKTD, value_BKTD, attention_mask, scale), None


def _in_one_type(*parts: Tensor) -> tuple[Tensor, ...]:
    """As autocast would have them."""
    kind = parts[0].device.type
    return tuple(one.to(torch.get_autocast_dtype(kind)) for one in parts) if torch.is_autocast_enabled(kind) else parts


def _attend_eagerly(
    module: nn.Module,
    query_BHTD: Tensor,
    key_BKTD: Tensor,
    value_BKTD: Tensor,
    attention_mask: Layout | Tensor | None,
    **more: Any,
) -> tuple[Tensor, Tensor | None]:
    eager = sys.modules[type(module).__module__].eager_attention_forward
    if not isinstance(attention_mask, Layout):
        return eager(module, query_BHTD, key_BKTD, value_BKTD, attention_mask, **more)
    layout, rows = attention_mask, []
    queries = query_BHTD.split(layout.lengths, dim=2)
    for query, key, value in zip(queries, keys_seen(key_BKTD, layout), keys_seen(value_BKTD, layout), strict=True):
        band_qk = layout.band(query.shape[2], key.shape[2], query)
        rows.append(eager(module, query, key, value, band_qk[None, None], **more)[0])
    return torch.cat(rows, dim=1), None


AttentionInterface.register("sdpa", _attend)
AttentionMaskInterface.register("sdpa", partial(_mask, sdpa_mask))
AttentionInterface.register(EAGER, _attend_eagerly)
AttentionMaskInterface.register(EAGER, partial(_mask, eager_mask))
