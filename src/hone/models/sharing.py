"""Sequences that share their beginning in one packed row: the mask that keeps them apart, and who cannot be given one.

Does not know why sequences begin alike, nor lays them out.

Axes: B row, T token.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from hone.models.attention_packed import EAGER, layout_of

_KERNELS = ("sdpa", "eager", EAGER)
"""Implementations of attention that take any mask."""
_REACH = re.compile("window|chunk|block|compress|attention_type")
"""Settings of layers that see only a part of what is before them, counted in places of the row and not in positions."""


def unshared(config: PretrainedConfig) -> str:
    """Why sequences of this model never share their beginning; "" where nothing in its config speaks against it.

    A short test cannot see a window that is longer than itself, so the config must tell.
    """
    text = config.get_text_config()
    if text._attn_implementation not in _KERNELS:
        return f"{text._attn_implementation} attention takes no such mask"
    settings = text.to_dict()
    if kinds := settings.get("layer_types"):
        return "" if set(kinds) == {"full_attention"} else f"it has layers of {' and '.join(sorted(set(kinds)))}"
    found = sorted(name for name, value in settings.items() if _REACH.search(name) and type(value) in (int, list) and value)
    return f"its config has a {found[0]}" if found else ""


def shared_mask(causal: PreTrainedModel, segments_BT: Tensor, positions_BT: Tensor) -> Tensor:
    """[1, 1, T, T], in the form its kernel takes: a token sees its sequence up to itself, with what that shares with others."""
    sees_11TT = layout_of(segments_BT, positions_BT).sees(segments_BT.device)[None, None]
    if causal.config.get_text_config()._attn_implementation == "sdpa":
        return sees_11TT
    added_11TT = torch.zeros(sees_11TT.shape, dtype=causal.dtype, device=sees_11TT.device)
    return added_11TT.masked_fill(~sees_11TT, torch.finfo(causal.dtype).min)
