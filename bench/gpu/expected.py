"""What a run of the bench should take on one H200, so that the minutes of a device can be laid out before there is one.

Estimates, not measurements: shares of the device's products that a system is expected to reach, and bytes a second of files.
"""

from __future__ import annotations

from typing import Any

from cases import Case, Setting
from flops import flops_per_token, work_of

CEILING = 788e12
"""FLOP a second of large bf16 products on an H200."""
_SHARES = {"hone": 0.6, "transformers": 0.35, "trl": 0.3, "unsloth": 0.5, "axolotl": 0.4, "llamafactory": 0.35}
_FUSED = 1.2
"""Times as fast with norms, rotary codes and gated products in one pass each."""
_MAKE_BYTES, _READ_BYTES = 1.2e9, 3e9
_START, _CHECKS = 18.0, 60.0
"""Seconds of imports, tokens, plan and first step; of the checks."""


def weights_of(config: Any) -> int:
    """Bytes of the weights in bf16; experts are all there."""
    work, experts = work_of(config), getattr(config, "num_experts", 0) or 0
    a_token = 3 * config.hidden_size * (config.moe_intermediate_size if experts else config.intermediate_size)
    more = config.num_hidden_layers * a_token * (experts - config.num_experts_per_tok) if experts else 0
    tied = 1 if getattr(config, "tie_word_embeddings", False) else 2
    return 2 * (work.linear + more + tied * work.head)


def seconds_to_make(config: Any) -> float:
    """Of a model's files, from nothing."""
    return _START / 2 + weights_of(config) / _MAKE_BYTES


def seconds_of(case: Case, setting: Setting, config: Any, steps: int) -> float:
    """Of a whole run, from its command to its last step."""
    return _START + weights_of(config) / _READ_BYTES + (steps + 1) * seconds_of_step(case, setting, config)


def seconds_of_step(case: Case, setting: Setting, config: Any) -> float:
    """Of an optimizer step."""
    words, pairs = setting.words, case.stage == "dpo"
    flops = flops_per_token(work_of(config), case.length, method=case.method, rank=case.rank, reference=pairs)
    if words.get("gradient_checkpointing") or (setting.system == "trl" and setting.name == "stock"):
        flops *= 1.33 if case.method == "full" else 1.5
    share = _SHARES[setting.system] * (_FUSED if words.get("fused_kernels") else 1)
    tokens = case.batch * case.length * ((1.5 if setting.system == "hone" else 2) if pairs else 1)
    return flops * tokens / CEILING / share


def seconds_of_checks() -> float:
    """Of all of them."""
    return _CHECKS
