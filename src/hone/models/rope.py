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
    A model that was stretched so and saved stays as it was trained; a longer length is counted from its limit before that.
    Raises ModelError for a model without rotary positions, or one that is stretched in another way already.
    """
    text = config.get_text_config()
    limit = text.to_dict().get("max_position_embeddings")
    parameters = text.to_dict().get("rope_parameters")
    if not limit or not parameters:
        raise ModelError(f"rope_scaling: {config.model_type} has no rotary positions to stretch; leave the key out")
    layered = "rope_theta" not in parameters and "rope_type" not in parameters
    parts = parameters if layered else {"": parameters}
    if any(part.get("rope_type") == kind for part in parts.values()) and (length is None or length <= limit):
        log.once(f"rope_scaling: the model is stretched to {limit} positions by {kind} already; they stay as they are")
        return
    parts, limit = _unstretched(parts, kind, limit)
    factor = 2.0 if length is None else float(math.ceil(length / limit))
    if factor <= 1.0:
        log.once(f"rope_scaling: {length} tokens fit the model's {limit}; its positions stay as they are")
        return
    parts = {name: _stretched(one, kind, factor, limit) for name, one in parts.items()}
    text.rope_parameters = parts if layered else parts[""]
    text.max_position_embeddings = int(limit * factor)
    log.once(f"rope_scaling: {kind}, factor {factor:g}: {limit} positions become {int(limit * factor)}")


def _unstretched(parts: dict[str, dict], kind: str, limit: int) -> tuple[dict[str, dict], int]:
    """The parameters and the limit before `stretch`; a model that its makers stretched in another proportion stays as it is."""
    before = {part.get("original_max_position_embeddings") or limit / (part.get("factor") or 1.0) for part in parts.values()}
    ours = all(part.get("rope_type") == kind and (part.get("factor") or 1.0) > 1.0 for part in parts.values())
    if not ours or len(before) > 1 or any(round(min(before) * part["factor"]) != limit for part in parts.values()):
        return parts, limit
    return {name: {**part, "factor": 1.0} for name, part in parts.items()}, round(min(before))


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
