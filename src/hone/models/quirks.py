"""Quirks: what single families do differently from the rest, each in one place, found by their config's own fields.

Does not know how a model is loaded or trained.
"""

from __future__ import annotations

from transformers import PretrainedConfig

from hone import log
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


def leave_out_router_loss(config: PretrainedConfig) -> None:
    """A mixture of experts adds its router's balance loss to its own loss; token log-probs have no place for it, so it is off."""
    text = config.get_text_config()
    if text.to_dict().get("output_router_logits"):
        text.output_router_logits = False
        log.once("the router's balance loss of this mixture of experts (output_router_logits) is left out")
