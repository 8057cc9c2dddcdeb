"""A LoRA adapter as it lies on disk: which low-rank additions and which whole tensors it brings, under the base's own names.

Does not know the base's tensors; knows PEFT's file format, not PEFT.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hone.adapters.folder import OWN_WEIGHTS, WEIGHTS, read_folder
from hone.errors import ExportError
from hone.export.source import Stored, stored_tensors

_PREFIX = "base_model.model."
_HARMLESS_STARTS = (True, False, None, "gaussian")
"""Values of init_lora_weights that leave the base's weights alone; PiSSA, OLoRA, CorDA and LoftQ start by changing them."""

_MORE_THAN_A_SUM = (
    *("use_dora", "lora_bias", "target_parameters", "trainable_token_indices", "layer_replication", "alora_invocation_tokens"),
    *("use_qalora", "use_bdlora", "kasa_config", "velora_config", "monteclora_config", "arrow_config"),
)
"""Settings of PEFT under which an adapter is not W + scale B A."""


class NeedsWholeModel(Exception):
    """This merge cannot be done tensor by tensor; the text says why. Not an error: the whole model is merged instead."""


@dataclass(frozen=True)
class Addition:
    """scale * B @ A is added to one weight of shape [outputs, inputs]. a: [rank, inputs], b: [outputs, rank]."""

    a: Stored
    b: Stored
    scale: float


@dataclass(frozen=True)
class Adapter:
    """What one adapter folder brings. additions and replacements: by the name of the base's tensor.

    apart: the replacements that were trained as tensors of their own, also where the base ties them to others.
    """

    folder: Path
    base: str
    additions: dict[str, Addition]
    replacements: dict[str, Stored]
    apart: frozenset[str]


def read_adapter(folder: Path) -> Adapter:
    """Read a PEFT LoRA folder: its settings and the headers of its tensors.

    Raises: ModelError where the folder is no LoRA adapter; ExportError where its tensors are damaged; NeedsWholeModel where it
    holds something else than low-rank additions and whole tensors (DoRA, OFT).
    """
    opened = read_folder(folder)
    if opened.kind != "lora":
        raise NeedsWholeModel(f"{folder.name} turns what layers read (finetuning_type: {opened.kind})")
    _check_start(folder, opened.config)
    additions, replacements = _sort_tensors(folder, opened.config, stored_tensors(folder / WEIGHTS))
    # What is not in modules_to_save is the base's own tensor, saved beside its addition, and stands for all that are tied to it.
    own = () if opened.config.get("ensure_weight_tying") else opened.config.get("modules_to_save") or ()
    apart = frozenset(name for name in replacements if any(f".{name}".endswith(f".{module}.weight") for module in own))
    return Adapter(folder, opened.base_name, additions, replacements, apart)


def _check_start(folder: Path, config: dict[str, Any]) -> None:
    if config.get("init_lora_weights", True) not in _HARMLESS_STARTS:
        raise NeedsWholeModel(f"{folder.name} started by changing the base ({config['init_lora_weights']})")
    for switch in _MORE_THAN_A_SUM:
        if config.get(switch):
            raise NeedsWholeModel(f"{folder.name} uses {switch}")


def _sort_tensors(
    folder: Path, config: dict[str, Any], tensors: dict[str, Stored]
) -> tuple[dict[str, Addition], dict[str, Stored]]:
    additions: dict[str, Addition] = {}
    replacements: dict[str, Stored] = {}
    for name, tensor in tensors.items():
        if not name.startswith(_PREFIX):
            raise ExportError(f"{folder}: the tensor {name} does not start with {_PREFIX}: this is not a file that PEFT wrote.")
        path = name.removeprefix(_PREFIX)
        module, mark, tail = path.partition(".lora_embedding_" if ".lora_embedding_" in path else ".lora_")
        if (mark and tail.removesuffix(".weight") not in ("A", "B")) or ".token_adapter." in path:
            raise NeedsWholeModel(f"{folder.name} holds {path.rpartition('.')[2]}")
        if not mark:
            replacements[_base_name(path)] = tensor
            continue
        side, lacking = ("A", "B") if tail[0] == "A" else ("B", "A")
        other = tensors.get(f"{_PREFIX}{module}{mark}{lacking}{tail[1:]}")
        if other is None:
            raise ExportError(f"{folder}: {name} is there without its lora_{lacking}; the adapter is damaged, copy it again.")
        if side == "A":
            additions[f"{module}.weight"] = _addition(folder, config, module, tensor, other)
    if not additions and not replacements:
        raise ExportError(f"{folder} holds an adapter without a single tensor.")
    return additions, replacements


def whole_tensors(folder: Path) -> dict[str, Stored]:
    """The tensors that a folder brings whole, by the name of the base's, whatever else it holds."""
    tensors = stored_tensors(folder / WEIGHTS).items()
    return {
        _base_name(name.removeprefix(_PREFIX)): tensor
        for name, tensor in tensors
        if not any(mark in name for mark in OWN_WEIGHTS)
    }


def _base_name(path: str) -> str:
    return path.replace(".base_layer.", ".").replace(".modules_to_save.", ".")


def _addition(folder: Path, config: dict[str, Any], module: str, a: Stored, b: Stored) -> Addition:
    if len(a.shape) != 2 or len(b.shape) != 2:
        raise NeedsWholeModel(f"{folder.name} adapts a convolution")
    rank = a.shape[0]
    alpha = _of_pattern(config.get("alpha_pattern") or {}, module, config["lora_alpha"])
    said = _of_pattern(config.get("rank_pattern") or {}, module, config["r"])
    if not rank == b.shape[1] == said:
        raise ExportError(
            f"{folder}: {module} has rank {rank} in lora_A, {b.shape[1]} in lora_B and {said} in adapter_config.json; "
            "the adapter is damaged, copy it again."
        )
    scale = alpha / rank**0.5 if config.get("use_rslora") else alpha / rank
    return Addition(a, b, scale)


def _of_pattern(pattern: dict[str, Any], module: str, default: Any) -> Any:
    # PEFT's own rule (get_pattern_key): a key is a regular expression for the end of a module's name; the first that fits counts.
    for key, value in pattern.items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return default
