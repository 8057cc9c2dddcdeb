"""Which weights an optimizer treats alike: decay or none, and LoRA+'s higher rate for one side.

Does not know any optimizer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from torch import nn

from hone.config.optimizer import OptimizerConfig
from hone.errors import ModelError

_NO_DECAY = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)")
"""Names without weight decay, as in transformers.Trainer 5."""


def parameter_groups(module: nn.Module, optimizer: OptimizerConfig) -> list[dict[str, Any]]:
    """Groups with params, weight_decay and lr: the weights that learn, split as Hugging Face's Trainer does, or as LoRA+ does.

    Raises ModelError for LoRA+ on a module without LoRA.
    """
    decaying = set(_decaying(module))
    named = [(name, weight) for name, weight in module.named_parameters() if weight.requires_grad]
    plus = optimizer.loraplus_lr_ratio is not None
    sets = _loraplus(named, optimizer) if plus else [(optimizer.learning_rate, named)]
    groups = []
    for rate, members in sets:
        for decay in (True, False):
            params = [weight for name, weight in members if (name in decaying) == decay]
            if params:
                groups.append({"params": params, "lr": rate, "weight_decay": optimizer.weight_decay if decay else 0.0})
    return groups


def _loraplus(named: list[tuple[str, nn.Parameter]], optimizer: OptimizerConfig) -> list[tuple[float, list]]:
    """LoRA+ (Hayou et al. 2024): B matrices learn faster than A by a ratio, embeddings at a rate of their own."""
    sets: dict[str, list] = {"a": [], "b": [], "embedding": []}
    for name, weight in named:
        if "lora_embedding_B" in name:
            sets["embedding"].append((name, weight))
        elif "lora_B" in name or weight.dim() == 1:
            sets["b"].append((name, weight))
        else:
            sets["a"].append((name, weight))
    if not any("lora_B" in name for name, _ in sets["b"]):
        raise ModelError("loraplus_lr_ratio needs finetuning_type: lora; no LoRA matrix is trained here")
    rate = optimizer.learning_rate
    rates = {"a": rate, "b": rate * optimizer.loraplus_lr_ratio, "embedding": optimizer.loraplus_lr_embedding}
    return [(rates[kind], members) for kind, members in sets.items()]


def _decaying(module: nn.Module) -> Iterator[str]:
    """Names of weights that decay: in no LayerNorm, and no part of their path named like a bias or a norm."""
    norms = tuple(f"{path}." for path, inner in module.named_modules() if isinstance(inner, nn.LayerNorm))
    for name, _ in module.named_parameters():
        if not _NO_DECAY.search(name.lower()) and not name.startswith(norms):
            yield name
