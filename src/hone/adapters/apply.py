"""The table of what can be trained on top of a base model, and its four verbs: attach, save, load back, report.

Does not know how any of it is done, nor the data, loss and optimizer.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from hone import log
from hone.adapters.files import open_to_readers
from hone.adapters.folder import OWN_WEIGHTS, AdapterFolder
from hone.adapters.full import load_whole, save_whole
from hone.config.adapter import Adapter
from hone.errors import ModelError
from hone.table import Table

METHODS = Table(
    "finetuning_type",
    {
        "full": "hone.adapters.full:attach_full",
        "freeze": "hone.adapters.freeze:attach_freeze",
        "lora": "hone.adapters.lora:attach_lora",
        "oft": "hone.adapters.oft:attach_oft",
    },
    group="hone.adapters",
    error=ModelError,
)


_LORA = Table(
    "verb",
    {
        "save": "hone.adapters.lora:save_adapter",
        "load": "hone.adapters.lora:load_adapter",
        "off": "hone.adapters.lora:adapter_off",
        "add": "hone.adapters.lora:add_frozen",
        "on": "hone.adapters.lora:adapter_on",
        "fuse": "hone.adapters.fuse:fuse",
        "ahead": "hone.adapters.ahead:turn_back_ahead",
    },
)
"""Of adapters of either kind of peft's. Imported where one is there, and with it what knows peft."""


@dataclass(frozen=True)
class Trainable:
    """num_trained of num_weights scalars learn; dtypes: of those that do."""

    num_trained: int
    num_weights: int
    dtypes: tuple[str, ...]

    def __str__(self) -> str:
        share = 100 * self.num_trained / max(1, self.num_weights)
        return (
            f"{self.num_trained:,} of {self.num_weights:,} weights are trained ({share:.2f}%), in {'/'.join(self.dtypes) or '-'}"
        )


def attach(
    module: nn.Module,
    adapter: Adapter,
    *,
    base_name: str,
    trainable: bool = True,
    trained_dtype: torch.dtype = torch.float32,
    ahead: bool = False,
) -> nn.Module:
    """The module with what is trained on it; the base is changed in place.

    base_name: what the user calls the base, written into the adapter. trainable=False: for use; nothing has a gradient, adapters
    are merged (a quantized base carries them beside). trained_dtype: of the weights that learn. ahead: on a GPU, weights in 4
    bits are turned back beside the computation of the layer before.
    Raises ModelError for names that match nothing, adapters that cannot be read or belong to another base.
    """
    module = METHODS.load(adapter.kind)(module, adapter, base_name=base_name, trainable=trainable)
    if not trainable:
        return module.requires_grad_(False).eval()
    for weight in module.parameters():
        if weight.requires_grad:
            weight.data = weight.data.to(trained_dtype)
    report = trainable_report(module)
    if not report.num_trained:
        raise ModelError(f"finetuning_type: {adapter.kind} leaves no weight to train")
    log.once(str(report))
    if _is_adapter(module):
        _LORA.load("fuse")(module)
        if ahead:
            _LORA.load("ahead")(module)
    return module


def rest_output_head(module: nn.Module, adapter: Adapter) -> None:
    """Let the output head learn nothing, for objectives that read no logits: under DDP a weight without a gradient would hang.

    Embeddings that it shares go on learning. Raises ModelError where the user asked for it to learn.
    """
    head = module.get_output_embeddings()
    if head is None:
        return
    embedding = {id(weight) for weight in module.get_input_embeddings().parameters()}
    own = {name: weight for name, weight in head.named_parameters() if id(weight) not in embedding and weight.requires_grad}
    path = next((name for name, inner in module.named_modules() if inner is head), "").rpartition(".")[-1]
    asked = path in vars(adapter).get("additional_target", ()) or path in vars(adapter).get("freeze_extra_modules", ())
    if own and (asked or any(mark in name for name in own for mark in OWN_WEIGHTS)):
        raise ModelError(f"{path} has no effect in this stage, which reads no logits: leave it out of what is trained")
    for weight in own.values():
        weight.requires_grad_(False)


def trainable_report(module: nn.Module) -> Trainable:
    """How much of the module learns; weights in 4 bits are counted as they were before."""
    trained = [weight for weight in module.parameters() if weight.requires_grad]
    dtypes = sorted({str(weight.dtype).removeprefix("torch.") for weight in trained})
    total = sum(_count(weight) for weight in module.parameters())
    return Trainable(sum(weight.numel() for weight in trained), total, tuple(dtypes))


def save_trained(module: nn.Module, folder: Path) -> None:
    """Write what was trained: a plain PEFT folder for an adapter, else the whole model as Hugging Face writes it."""
    if _is_adapter(module):
        _LORA.load("save")(module, folder)
    else:
        save_whole(module, folder)
        open_to_readers(folder)


def load_trained(module: nn.Module, folder: Path) -> None:
    """Read back into `module` what `save_trained` wrote for a module made alike; ModelError where it does not fit."""
    if _is_adapter(module):
        _LORA.load("load")(module, folder)
    else:
        load_whole(module, folder)


def saved_weights(module: nn.Module) -> list[nn.Parameter]:
    """The weights that `save_trained` writes, and those beside them that learn: all, or an adapter's own."""
    if not _is_adapter(module):
        return list(module.parameters())
    own = (*OWN_WEIGHTS, "modules_to_save.")
    return [weight for name, weight in module.named_parameters() if weight.requires_grad or any(mark in name for mark in own)]


def without_adapter(module: nn.Module) -> AbstractContextManager[object]:
    """While it is held, `module` computes as the base under its adapter."""
    assert _is_adapter(module), "a module without an adapter has nothing to switch off"
    return _LORA.load("off")(module)


def attach_beside(module: nn.Module, name: str, folder: AdapterFolder, *, base_name: str) -> None:
    """Put a saved adapter beside the one that is trained, for `with_adapter`; ModelError where it does not fit."""
    assert _is_adapter(module), "an adapter stands beside another"
    _LORA.load("add")(module, folder, name, base_name)


def with_adapter(module: nn.Module, name: str) -> AbstractContextManager[object]:
    """While it is held, `module` computes with that adapter in place of the one that is trained."""
    return _LORA.load("on")(module, name)


def _is_adapter(module: nn.Module) -> bool:
    return hasattr(module, "peft_config")


def _count(weight: nn.Parameter) -> int:
    """bitsandbytes packs two 4-bit weights into each byte."""
    return weight.numel() * 2 if type(weight).__name__ == "Params4bit" and weight.element_size() == 1 else weight.numel()
