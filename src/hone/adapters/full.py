"""Full: every weight learns, and the whole model is what is saved.

Does not know adapters that are added to a model.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from hone.adapters.files import read_tensors
from hone.adapters.parts import rest
from hone.config.adapter import Full
from hone.errors import ModelError


def attach_full(module: nn.Module, adapter: Full, *, base_name: str, trainable: bool) -> nn.Module:
    """Let every weight learn; ModelError for a quantized base."""
    if trainable:
        refuse_quantized(module, adapter.kind, base_name)
    return rest(module.requires_grad_(trainable), adapter)


def refuse_quantized(module: nn.Module, kind: str, base_name: str) -> None:
    """Weights held in few bits cannot learn."""
    if any(not weight.is_floating_point() for weight in module.parameters()):
        raise ModelError(f"finetuning_type: {kind} trains weights of {base_name} that are quantized; write finetuning_type: lora")


def save_whole(module: nn.Module, folder: Path) -> None:
    """Write config and weights; use_cache, which training turns off, is on in what is written."""
    kept = module.config.use_cache
    module.config.use_cache = True
    try:
        module.save_pretrained(str(folder))
    finally:
        module.config.use_cache = kept


@torch.no_grad()
def load_whole(module: nn.Module, folder: Path) -> None:
    """Copy the weights of a saved model into `module`, file by file; ModelError where a weight is missing or does not fit."""
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        raise ModelError(f"{folder} holds no model.safetensors")
    own = dict(module.state_dict(keep_vars=False))
    found: set[str] = set()
    for file in files:
        tensors = read_tensors(file)
        if not set(tensors) <= set(own):
            # Families whose files carry other names than their modules (fused experts): transformers alone knows the mapping.
            _load_by_family(module, folder)
            return
        for name, tensor in tensors.items():
            _copy(own[name], tensor, name, file)
        found |= set(tensors)
    _require_all(own, found, folder)


def _load_by_family(module: nn.Module, folder: Path) -> None:
    other = type(module).from_pretrained(str(folder), dtype=torch.float32)
    own = module.state_dict()
    for name, tensor in other.state_dict().items():
        _copy(own[name], tensor, name, folder)


def _copy(target: Tensor, source: Tensor, name: str, path: Path) -> None:
    if target.shape != source.shape:
        raise ModelError(f"{path}: {name} has shape {tuple(source.shape)}, the model's is {tuple(target.shape)}")
    target.copy_(source)


def _require_all(own: dict[str, Tensor], found: set[str], folder: Path) -> None:
    """Tied weights are written once: a name that is not there must share its memory with one that is."""
    covered = {own[name].data_ptr() for name in found}
    missing = [name for name in own if name not in found and own[name].data_ptr() not in covered]
    if missing:
        raise ModelError(f"{folder} lacks {len(missing)} weights of the model, such as {missing[0]}")
