"""Rotary positions stretched for text longer than the model was made for, written into its config before it is built.

Does not know the weights.
"""

from __future__ import annotations

import math

from transformers import PretrainedConfig

from hone import log
from hone.errors import ModelError


def stretch(config: PretrainedConfig, kind: str, length: int | None) -> None:
    """Set `rope_scaling: kind` for text of `length` tokens: the factor is ceil(length / the model's own limit).

    A length that fits leaves the model as it is. length None: twice the model's limit, as LLaMA-Factory does outside training.
    Raises ModelError for a model without rotary positions, or one that is stretched in another way already.
    """
    text = config.get_text_config()
    limit = text.to_dict().get("max_position_embeddings")
    parameters = text.to_dict().get("rope_parameters")
    if not limit or not parameters:
        raise ModelError(f"rope_scaling: {config.model_type} has no rotary positions to stretch; leave the key out")
    factor = 2.0 if length is None else float(math.ceil(length / limit))
    if factor <= 1.0:
        log.once(f"rope_scaling: {length} tokens fit the model's {limit}; its positions stay as they are")
        return
    layered = "rope_theta" not in parameters and "rope_type" not in parameters
    text.rope_parameters = (
        {name: _stretched(one, kind, factor, limit) for name, one in parameters.items()}
        if layered
        else _stretched(parameters, kind, factor, limit)
    )
    text.max_position_embeddings = int(limit * factor)
    log.once(f"rope_scaling: {kind}, factor {factor:g}: {limit} positions become {int(limit * factor)}")


def _stretched(parameters: dict, kind: str, factor: float, limit: int) -> dict:
    present = parameters.get("rope_type") or "default"
    if present not in ("default", kind):
        raise ModelError(f"rope_scaling: {kind} does not go on top of the model's own {present} scaling; leave the key out")
    original = parameters.get("original_max_position_embeddings") or limit
    kept = {**parameters, "rope_type": kind, "factor": factor * (parameters.get("factor") or 1.0)}
    if kind == "linear":
        return kept
    kept["original_max_position_embeddings"] = original
    if kind == "llama3":
        kept = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, **kept}
    return kept
