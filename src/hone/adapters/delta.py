"""What a saved LoRA adapter adds to each weight of its base, as pure tensors: for merging file by file, without the model.

Does not know peft, the base's files or how they are written.

Axes of a pair: A [r, in], B [out, r]; the weight is [out, in] as torch's Linear holds it.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hone.adapters.files import read_tensors
from hone.adapters.folder import WEIGHTS, AdapterFolder, locate
from hone.adapters.targets import PREFIX

_LOW_RANK = re.compile(r"^(?P<path>.+)\.(?P<what>lora_A|lora_B)\.weight$")
_EMBEDDING = re.compile(r"^(?P<path>.+)\.lora_embedding_(?P<side>[AB])$")
_FULL_PATH = {
    "use_dora": "DoRA scales each row by a norm of the merged weight",
    "lora_bias": "its B matrices have biases",
    "target_parameters": "it adds to parameters that are not layers",
    "trainable_token_indices": "it trains single rows of the embeddings",
    "layer_replication": "it repeats layers",
    "alora_invocation_tokens": "it switches on at a token",
    "use_qalora": "QA-LoRA pools its inputs",
    "use_bdlora": "its matrices are block-diagonal",
    "kasa_config": "KaSA changes the base",
    "velora_config": "VeLoRA changes the forward pass",
    "monteclora_config": "its matrices are sampled",
    "arrow_config": "Arrow routes between adapters",
}
"""Fields of the config that mean more than W + scale B A, and why."""


@dataclass(frozen=True)
class Pair:
    """scale * B @ A is added to the weight."""

    a: Tensor
    b: Tensor
    scale: float

    def add_to(self, weight: Tensor, start: int = 0) -> Tensor:
        """weight + scale B A computed in fp32 and given back in the weight's type; weight: rows from `start` on."""
        rows = self.b[start : start + weight.shape[0]].float()
        return torch.addmm(weight.float(), rows, self.a.float(), alpha=self.scale).to(weight.dtype)


@dataclass(frozen=True)
class LoraDelta:
    """pairs: by the base weight's name; whole: weights that take the place of the base's.

    needs_full_path: why the adapter cannot be merged weight by weight, "" where it can.
    """

    base_name: str
    pairs: dict[str, Pair] = field(default_factory=dict)
    whole: dict[str, Tensor] = field(default_factory=dict)
    needs_full_path: str = ""


def lora_delta(adapter_folder: str | Path) -> LoraDelta:
    """Read a PEFT folder; ModelError where it holds no readable LoRA adapter."""
    folder = locate(str(adapter_folder))
    reason = _reason(folder.config)
    if reason:
        return LoraDelta(folder.base_name, needs_full_path=reason)
    return _collect(folder)


def _reason(config: dict[str, Any]) -> str:
    for key, why in _FULL_PATH.items():
        if config.get(key):
            return f"{key}: {why}"
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.split("_")[0].lower() in ("pissa", "olora", "corda", "loftq"):
        return f"init_lora_weights: {start} changed the base when it was attached"
    return ""


def _collect(folder: AdapterFolder) -> LoraDelta:
    sides: dict[str, dict[str, Tensor]] = {}
    whole: dict[str, Tensor] = {}
    embeddings: set[str] = set()
    for name, tensor in read_tensors(folder.path / WEIGHTS).items():
        name = name.removeprefix(PREFIX)
        if found := _LOW_RANK.match(name):
            sides.setdefault(found["path"], {})[found["what"][-1]] = tensor
        elif found := _EMBEDDING.match(name):
            sides.setdefault(found["path"], {})[found["side"]] = tensor
            embeddings.add(found["path"])
        elif "lora_" in name:
            return LoraDelta(folder.base_name, needs_full_path=f"{name} is neither an A nor a B matrix")
        else:
            whole[name] = tensor
    pairs = {}
    for path, pair in sides.items():
        a, b = pair["A"], pair["B"]
        scale = _scale(folder.config, path, a.shape[0])
        turned = path in embeddings or bool(folder.config.get("fan_in_fan_out"))
        pairs[f"{path}.weight"] = Pair(b.T.contiguous(), a.T.contiguous(), scale) if turned else Pair(a, b, scale)
    return LoraDelta(folder.base_name, pairs, whole)


def _scale(config: dict[str, Any], path: str, rank: int) -> float:
    alpha = config["lora_alpha"]
    for pattern, own in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", path):
            alpha = own
            break
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
