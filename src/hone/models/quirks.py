"""Quirks: what single families do differently from the rest, each in one place, found by their config's own fields.

Does not know how a model is loaded or trained.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

from hone.kernels.token_logprobs import LogitMap

_MULTIPLIED_BY = ("logit_scale", "lm_head_multiplier")
"""Cohere; Falcon-H1."""
_DIVIDED_BY = ("logits_scaling",)
"""Granite."""


def logit_map_of(config: PretrainedConfig) -> LogitMap:
    """What the family does to its logits between head and loss; the policy's self-test finds a family that is missing here."""
    fields = config.get_text_config().to_dict()
    scale = 1.0
    for name in _MULTIPLIED_BY:
        scale *= fields.get(name) or 1.0
    for name in _DIVIDED_BY:
        scale /= fields.get(name) or 1.0
    return LogitMap(scale=scale, cap=fields.get("final_logit_softcapping") or 0.0)


PADDED_ONLY = {
    "bailing_hybrid": "its linear attention carries a state along the whole row",
    "bloom": "its attention takes no positions, so nothing tells the sequences apart",
    "deepseek_v4": "its compressed attention makes blocks across sequences",
    "falcon_h1": "its Mamba layers carry a state along the whole row",
    "granitemoehybrid": "its Mamba layers carry a state along the whole row",
    "jamba": "its Mamba layers carry a state along the whole row",
    "kimi_linear": "its linear attention carries a state along the whole row",
    "lfm2": "its convolutions reach across sequences",
    "lfm2_moe": "its convolutions reach across sequences",
    "mamba": "it carries a state along the whole row",
    "minimax": "its linear attention carries a state along the whole row",
    "opt": "its attention takes no positions, so nothing tells the sequences apart",
    "qwen3_5_moe_text": "its linear attention carries a state along the whole row",
    "qwen3_5_text": "its linear attention carries a state along the whole row",
    "qwen3_next": "its linear attention carries a state along the whole row",
}
"""Families of transformers 5.23 (2026-11) that leak between packed sequences: a weak or a far leak may be below what a short

self-test in 16 bits can see. One that is missing here is found by the self-test.
"""


READS_MASK = {
    "deepseek_v32": "its indexer reads the mask",
    "falcon": "its attention is code of its own",
    "glm_moe_dsa": "its indexer reads the mask",
}
"""Families of transformers 5.23 (2026-11) that need a mask of the whole row. One that is missing is found by the self-test."""


EAGER_FAMILIES = ("gemma2", "gpt_oss", "mimo_v2_flash")
"""Families of transformers 5.23 (2026-11) whose eager attention, with soft-caps or sinks, is a function of its module."""


def padded_only(config: PretrainedConfig) -> str:
    """Why sequences of this model are never packed; "" where they may be, as in a hybrid whose layers all attend."""
    text = config.get_text_config()
    kinds = text.to_dict().get("layer_types")
    if kinds and set(kinds) <= {"full_attention", "sliding_attention"}:
        return ""
    return PADDED_ONLY.get(text.model_type, "")


def packed_mask(causal: PreTrainedModel, positions_BT: Tensor) -> dict[str, Tensor | None] | Tensor | None:
    """The mask that isolates packed sequences where the family does not make it of the positions; None where it does.

    transformers 5.23 (2026-11): falcon and gpt_oss do not hand the positions on to their own mask.
    """
    config = causal.config
    if config.model_type not in ("falcon", "gpt_oss") or getattr(config, "alibi", False):
        return None
    like_BTD = torch.empty((*positions_BT.shape, 0), dtype=causal.dtype, device=positions_BT.device)
    parts = {"inputs_embeds": like_BTD, "attention_mask": None, "past_key_values": None, "position_ids": positions_BT}
    full = create_causal_mask(config, **parts, allow_is_causal_skip=False)
    if config.model_type == "falcon":
        return full
    return {"full_attention": full, "sliding_attention": create_sliding_window_causal_mask(config, **parts)}
