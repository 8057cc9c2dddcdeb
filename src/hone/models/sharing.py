"""Sequences that share their beginning in one packed row: the mask that keeps them apart, and who cannot be given one.

Does not know why sequences begin alike, nor lays them out.

Axes: B row, T token.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

_KERNELS = ("sdpa", "eager")
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
    """[B, 1, T, T], in the form its kernel takes: a token sees its sequence up to itself, with what that shares with others."""
    groups_BT = (positions_BT == 0).cumsum(1)
    own_BTT = segments_BT[:, None] == segments_BT[:, :, None]
    sees_BTT = (groups_BT[:, None] == groups_BT[:, :, None]) & (own_BTT | (segments_BT[:, None] < 0))
    sees_B1TT = sees_BTT.tril().unsqueeze(1)
    if causal.config.get_text_config()._attn_implementation == "sdpa":
        return sees_B1TT
    added_B1TT = torch.zeros(sees_B1TT.shape, dtype=causal.dtype, device=sees_B1TT.device)
    return added_B1TT.masked_fill(~sees_B1TT, torch.finfo(causal.dtype).min)
