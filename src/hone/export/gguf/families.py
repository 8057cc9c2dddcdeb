"""The families that llama.cpp runs: what it calls each, and how it wants their settings told and their weights turned.

Does not read or write a number. config: config.json with every default filled in, as transformers has it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hone.errors import ExportError
from hone.table import nearest

Config = dict[str, Any]
Value = str | int | float | bool | list


@dataclass(frozen=True)
class Family:
    """architecture: llama.cpp's name. interleaved: query and key rows lie pair by pair, where transformers has halves.

    shifted_norms: norms are stored as the difference from 1. settings: what it wants told beside what all do.
    differs: what llama.cpp computes otherwise than the model, for this config; "" where nothing.
    """

    architecture: str
    settings: Callable[[Config], dict[str, Value]] = lambda config: {}
    interleaved: bool = False
    shifted_norms: bool = False
    differs: Callable[[Config], str] = lambda config: ""


def settings_of(family: Family, config: Config) -> dict[str, Value]:
    """Everything the file says of the architecture, by gguf's key."""
    said = _general(config) | _rotation(config) | family.settings(config)
    return {f"{family.architecture}.{key}": value for key, value in said.items() if value is not None}


def head_width(config: Config) -> int:
    """Units of one head of attention."""
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def _general(config: Config) -> dict[str, Value]:
    width, heads = head_width(config), config["num_attention_heads"]
    share = (_rope(config) or {}).get("partial_rotary_factor") or 1.0
    return {
        "block_count": config["num_hidden_layers"],
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "vocab_size": config["vocab_size"],
        "attention.head_count": heads,
        "attention.head_count_kv": config.get("num_key_value_heads") or heads,
        "attention.key_length": width,
        "attention.value_length": width,
        "attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        "rope.dimension_count": int(width * share),
    }


def _rope(config: Config) -> dict[str, Any]:
    """Of layers that see everything, where layers differ."""
    found = config.get("rope_parameters") or {}
    return found.get("full_attention", found)


def _rotation(config: Config) -> dict[str, Value]:
    rope = _rope(config)
    kind, factor = rope.get("rope_type") or "default", rope.get("factor")
    said: dict[str, Value] = {"rope.freq_base": float(rope.get("rope_theta", 10000.0))}
    if kind in ("default", "llama3", "longrope"):  # the last two are tensors
        return said
    if kind == "linear":
        return said | {"rope.scaling.type": "linear", "rope.scaling.factor": float(factor)}
    if kind == "yarn":
        return said | _yarn(rope, config)
    raise ExportError(f"llama.cpp has no rope_type {kind}: export_format: huggingface keeps it")


def _yarn(rope: dict[str, Any], config: Config) -> dict[str, Value]:
    """Peng et al. 2023. The scale of the logits is llama.cpp's own, 0.1 ln(factor) + 1, unless the config says one."""
    factor = float(rope["factor"])
    usual = 0.1 * math.log(factor) + 1.0
    given = rope.get("attention_factor")
    return {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": factor,
        "rope.scaling.original_context_length": rope.get("original_max_position_embeddings") or config["max_position_embeddings"],
        "rope.scaling.yarn_beta_fast": float(rope.get("beta_fast") or 32.0),
        "rope.scaling.yarn_beta_slow": float(rope.get("beta_slow") or 1.0),
        "rope.scaling.attn_factor": None if given is None else float(given) / usual,
    }


def rotation_factors(config: Config) -> dict[str, list[float]]:
    """Numbers that rotations are divided by, for the kinds that have one each: tensors by name."""
    rope, kind = _rope(config), _rope(config).get("rope_type")
    if kind == "longrope":
        return {"rope_factors_long.weight": rope["long_factor"], "rope_factors_short.weight": rope["short_factor"]}
    if kind != "llama3":
        return {}
    width, factor = head_width(config), rope["factor"]
    longest = rope["original_max_position_embeddings"] / rope["low_freq_factor"]
    shortest = rope["original_max_position_embeddings"] / rope["high_freq_factor"]
    waves = (2 * math.pi * rope["rope_theta"] ** (pair / width) for pair in range(0, width, 2))
    return {"rope_freqs.weight": [_llama3(wave, factor, shortest, longest) for wave in waves]}


def _llama3(wave: float, factor: float, shortest: float, longest: float) -> float:
    """Long waves are stretched by the factor, short ones not, and those between by a mixture of the frequencies."""
    if wave <= shortest or wave >= longest:
        return 1.0 if wave <= shortest else factor
    kept = (1 / wave - 1 / longest) / (1 / shortest - 1 / longest)
    return 1 / (kept + (1 - kept) / factor)


def _experts(config: Config) -> dict[str, Value]:
    count = config.get("num_local_experts") or config.get("num_experts") or config.get("n_routed_experts")
    return {"expert_count": count, "expert_used_count": config["num_experts_per_tok"]}


def _qwen3moe(config: Config) -> dict[str, Value]:
    if not config.get("norm_topk_prob"):
        raise ExportError("norm_topk_prob: false: llama.cpp normalizes the weights of Qwen3-MoE's experts in any case")
    if config.get("mlp_only_layers") or config.get("decoder_sparse_step", 1) != 1:
        raise ExportError("layers without experts among those with: llama.cpp wants experts in every layer of a Qwen3-MoE")
    return _experts(config) | {"expert_feed_forward_length": config["moe_intermediate_size"]}


def _deepseek2(config: Config) -> dict[str, Value]:
    """Latent attention as one key and value of all heads, as llama.cpp computes it."""
    turned, latent = config["qk_rope_head_dim"], config["kv_lora_rank"]
    sigmoid = config["model_type"] != "deepseek_v2"
    if not sigmoid and config.get("topk_method") == "group_limited_greedy" and config["n_group"] > 1:
        raise ExportError("topk_method: group_limited_greedy: llama.cpp chooses groups of experts as DeepSeek-V3 does")
    wide = _rope(config).get("mscale_all_dim")
    return _experts(config) | {
        "attention.head_count_kv": 1,
        "attention.key_length": latent + turned,
        "attention.value_length": latent,
        "attention.key_length_mla": config["qk_nope_head_dim"] + turned,
        "attention.value_length_mla": config["v_head_dim"],
        "attention.kv_lora_rank": latent,
        "attention.q_lora_rank": config.get("q_lora_rank") or 0,
        "rope.dimension_count": turned,
        "rope.scaling.attn_factor": None,
        "rope.scaling.yarn_log_multiplier": None if wide is None else 0.1 * float(wide),
        "leading_dense_block_count": config["first_k_dense_replace"],
        "expert_feed_forward_length": config["moe_intermediate_size"],
        "expert_shared_count": config["n_shared_experts"],
        "expert_weights_scale": float(config["routed_scaling_factor"]),
        "expert_weights_norm": bool(config.get("norm_topk_prob")),
        "expert_gating_func": 2 if sigmoid else 1,
        **({"expert_group_count": config["n_group"], "expert_group_used_count": config["topk_group"]} if sigmoid else {}),
    }


def _gemma2(config: Config) -> dict[str, Value]:
    _check_gemma_scale(config, 46)
    return _windows(config) | {
        "attn_logit_softcapping": float(config["attn_logit_softcapping"]),
        "final_logit_softcapping": float(config["final_logit_softcapping"]),
    }


def _gemma3(config: Config) -> dict[str, Value]:
    _check_gemma_scale(config, 62)
    local = config["rope_parameters"].get("sliding_attention", {}).get("rope_theta", 10000.0)
    cap = config.get("final_logit_softcapping")
    return _windows(config) | {
        "rope.freq_base_swa": float(local),
        "final_logit_softcapping": None if cap is None else float(cap),
    }


def _windows(config: Config) -> dict[str, Value]:
    local = [kind == "sliding_attention" for kind in config["layer_types"]]
    return {"attention.sliding_window": config["sliding_window"], "attention.sliding_window_pattern": local}


def _check_gemma_scale(config: Config, layers_of_27b: int) -> None:
    """llama.cpp takes the scale of the logits of attention from the sizes of the model, and reads none."""
    largest = config["num_hidden_layers"] == layers_of_27b
    taken = config["hidden_size"] // config["num_attention_heads"] if largest else config["head_dim"]
    if config["query_pre_attn_scalar"] != taken:
        raise ExportError(
            f"query_pre_attn_scalar: {config['query_pre_attn_scalar']}: llama.cpp takes {taken} for a model of these sizes"
        )


def _phi3(config: Config) -> dict[str, Value]:
    rope = _rope(config)
    original = rope.get("original_max_position_embeddings") or config.get("original_max_position_embeddings")
    said: dict[str, Value] = {"attention.sliding_window": 0, "rope.scaling.original_context_length": original}
    if rope.get("rope_type") == "longrope":
        scale = config["max_position_embeddings"] / original
        usual = math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 else 1.0
        said["rope.scaling.attn_factor"] = float(rope.get("attention_factor") or usual)
    return said


def _granite(config: Config) -> dict[str, Value]:
    return {
        "attention.scale": float(config["attention_multiplier"]),
        "embedding_scale": float(config["embedding_multiplier"]),
        "residual_scale": float(config["residual_multiplier"]),
        "logit_scale": float(config["logits_scaling"]),
    }


def _unseen_window(config: Config) -> str:
    """Where layers see a window alone, which llama.cpp has not for this family."""
    window = config.get("sliding_window")
    if not window or window >= config["max_position_embeddings"] or config.get("use_sliding_window") is False:
        return ""
    if "layer_types" in config and "sliding_attention" not in config["layer_types"]:
        return ""
    return f"llama.cpp has no window for this family: behind {window} tokens it sees more than the model was trained to see"


FAMILIES = {
    "llama": Family("llama", interleaved=True),
    "mistral": Family("llama", interleaved=True, differs=_unseen_window),
    "mixtral": Family("llama", _experts, interleaved=True, differs=_unseen_window),
    "qwen2": Family("qwen2", differs=_unseen_window),
    "qwen3": Family("qwen3", differs=_unseen_window),
    "qwen3_moe": Family("qwen3moe", _qwen3moe, differs=_unseen_window),
    "deepseek_v2": Family("deepseek2", _deepseek2),
    "deepseek_v3": Family("deepseek2", _deepseek2),
    "gemma2": Family("gemma2", _gemma2, shifted_norms=True),
    "gemma3_text": Family("gemma3", _gemma3, shifted_norms=True),
    "phi3": Family("phi3", _phi3, differs=_unseen_window),
    "glm4": Family("glm4"),
    "granite": Family("granite", _granite, interleaved=True),
}
"""By transformers' model_type."""


def family_of(config: Config) -> Family:
    """The row of a model. Raises: ExportError for a family that is not here."""
    kind = config["model_type"]
    if kind not in FAMILIES:
        raise ExportError(
            f"export_format: gguf does not know the family {kind}{nearest(kind, list(FAMILIES))}; it writes "
            f"{', '.join(FAMILIES)}. export_format: huggingface writes every family"
        )
    return FAMILIES[kind]
