"""PiSSA (Meng et al. 2024): an adapter that starts from the weights' principal parts, saved so that it fits the original base.

Does not know how the parts are found: peft takes them out of the base when it attaches the adapter.

peft leaves base' = base - s B0 A0. What was learned is base' + s B A, so on the original base it is s (B A - B0 A0): a plain
LoRA of twice the rank, A over A0 and B beside -B0. (Section 4 of the paper's appendix calls it the equivalent LoRA.)
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from hone.adapters.files import read_tensors
from hone.adapters.folder import CONFIG, WEIGHTS
from hone.errors import ModelError

START = "pissa_start"
"""Attribute of the module that holds A0 and B0 by the names of the adapter's file."""


def remember_start(tuned: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Keep the matrices the adapter starts from."""
    start = {name: tensor.detach().clone() for name, tensor in tensors.items() if _side(name)}
    setattr(tuned, START, start)


def start_of(tuned: nn.Module) -> dict[str, Tensor]:
    """The kept matrices; empty for an adapter that did not start so."""
    return vars(tuned).get(START, {})


def convert_folder(tuned: nn.Module, folder: Path) -> None:
    """Rewrite a folder that peft has just saved as the plain LoRA of twice the rank."""
    start = start_of(tuned)
    tensors = read_tensors(folder / WEIGHTS)
    for name, first in start.items():
        learned, first = tensors[name], first.to(tensors[name].device, tensors[name].dtype)
        tensors[name] = torch.cat([learned, first], 0) if _side(name) == "A" else torch.cat([learned, -first], 1)
    save_file(tensors, str(folder / WEIGHTS), metadata={"format": "pt"})
    path = folder / CONFIG
    config = json.loads(path.read_text(encoding="utf-8"))
    config["lora_alpha"] *= math.sqrt(2) if config["use_rslora"] else 2
    config["r"], config["init_lora_weights"] = 2 * config["r"], True
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@torch.no_grad()
def split_file(tuned: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The adapter's own matrices out of a converted file, for a module attached alike.

    The fast decomposition is random, so the start in the file may differ from this module's: then its base is mended to match.
    """
    start, own = start_of(tuned), dict(tensors)
    for name, first in start.items():
        rank, side = first.shape[0 if _side(name) == "A" else 1], _side(name)
        if name not in tensors or tensors[name].shape[0 if side == "A" else 1] != 2 * rank:
            raise ModelError(f"the adapter to continue was not started by pissa_init with this run's rank: {name} differs")
        own[name] = (tensors[name][:rank] if side == "A" else tensors[name][:, :rank]).contiguous()
        tensors = {**tensors, name: tensors[name][rank:] if side == "A" else -tensors[name][:, rank:]}
    for name in [name for name in start if _side(name) == "A"]:
        other = name.replace("lora_A", "lora_B")
        _mend_base(tuned, name, (start[name], start[other]), (tensors[name], tensors[other]))
        start[name], start[other] = tensors[name].clone(), tensors[other].clone()
    return own


def _mend_base(tuned: nn.Module, name: str, mine: tuple[Tensor, Tensor], files: tuple[Tensor, Tensor]) -> None:
    if torch.equal(mine[0].cpu(), files[0].cpu()) and torch.equal(mine[1].cpu(), files[1].cpu()):
        return
    layer = tuned.get_submodule(name.split(".lora_A")[0])
    weight = layer.get_base_layer().weight
    there = [matrix.to(weight.device, torch.float32) for matrix in (*mine, *files)]
    change = layer.scaling["default"] * (there[1] @ there[0] - there[3] @ there[2])
    weight += (change.T if layer.fan_in_fan_out else change).to(weight.dtype)


def _side(name: str) -> str:
    return "A" if ".lora_A." in name else "B" if ".lora_B." in name else ""
