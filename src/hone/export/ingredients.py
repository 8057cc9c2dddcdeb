"""What an export is made of: the base's files, the adapters, and the recipe that joins them, or why there is none.

Does not know the format that is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from torch import nn

from hone import log
from hone.adapters.folder import folders_of, read_folder
from hone.config.adapter import Adapter
from hone.config.model import ModelConfig
from hone.errors import ExportError
from hone.export.lora import NeedsWholeModel, read_adapter, whole_tensors
from hone.export.recipe import Recipe, plan_recipe, renamed
from hone.export.source import Stored, main_dtype, read_checkpoint, read_json, torch_name
from hone.models.place import is_local, settle
from hone.models.score_head import ScoreHead, find_score_head
from hone.models.shape import meta_model

CODES = {torch_name(code): code for code in ("F32", "F16", "BF16")}
"""safetensors' name of a number format by the settings' name."""


@dataclass(frozen=True)
class Ingredients:
    """model: without quantization; base: its folder; folders: of the adapters; head: of a model that scores texts.

    strangers: a line for each adapter that says of itself that it was trained on another base.
    """

    model: ModelConfig
    adapter: Adapter
    base: Path
    folders: tuple[Path, ...]
    head: ScoreHead | None
    strangers: tuple[str, ...]

    @property
    def name(self) -> str:
        """What the user calls the base."""
        return self.model.model_name_or_path


def gather(model: ModelConfig, adapter: Adapter) -> Ingredients:
    """Find the files. Raises: ModelError where they are not there."""
    plain = _unquantized(model)
    folders = tuple(folders_of(adapter))
    base, head = _base_folder(plain), find_score_head(plain, folders)
    strangers = tuple(line for folder in folders if (line := _stranger(folder, plain.model_name_or_path, base)))
    for line in strangers:
        log.warn(line)
    return Ingredients(plain, adapter, base, folders, head, strangers)


def _stranger(folder: Path, name: str, base: Path) -> str:
    """Shapes alone do not tell one base from another of its size; what the adapter says of itself does."""
    said = read_folder(folder).base_name
    alike = said in (name, str(base), "None", "") or Path(said).name.lower() == Path(name).name.lower()
    if alike or (Path(said).is_dir() and Path(said).resolve() == base.resolve()):
        return ""
    return (
        f"the adapter {folder} says that it was trained on {said}, and is put onto {name}: where these are not the same weights "
        "the result is not the model that was trained, which no comparison made here can tell"
    )


def find_device(name: str) -> torch.device:
    """Of export_device."""
    accelerator = torch.accelerator.current_accelerator(check_available=True) if name == "auto" else None
    return accelerator or torch.device("cpu")


def plan(parts: Ingredients, num_tokens: int, dtype: str) -> tuple[Recipe | None, str, str]:
    """The recipe, or None and why the whole model is needed; and safetensors' name of the main number format written.

    num_tokens: of the tokenizer; dtype: as infer_dtype, "auto" keeps the base's.
    """
    model, base, folders, head = parts.model, parts.base, parts.folders, parts.head
    tensors = read_checkpoint(base)
    stored = main_dtype(tensors) if tensors else _said_dtype(base)
    target = stored if dtype == "auto" else CODES[dtype]
    skeleton = meta_model(model, head)
    if head is not None:  # what gave words has no place in it
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("lm_head.")}
    if model.resize_vocab or model.add_tokens or model.add_special_tokens:
        _check_rows(tensors, folders, skeleton, num_tokens)
    try:
        if not tensors:
            raise NeedsWholeModel("the base has no safetensors, only older files")
        recipe = plan_recipe(renamed(tensors, skeleton), [read_adapter(folder) for folder in folders], skeleton, dtype=target)
        if recipe.rows is not None and "vocab_size" not in read_json(base / "config.json"):
            raise NeedsWholeModel("the vocabulary grows in a nested config")
    except NeedsWholeModel as reason:
        return None, str(reason), target
    return recipe, "", target


def _said_dtype(base: Path) -> str:
    """The number format that config.json names, for a base whose files do not say it."""
    config = read_json(base / "config.json")
    return CODES.get(config.get("dtype") or config.get("torch_dtype") or "", "F32")


def _check_rows(base: dict[str, Stored], folders: Sequence[Path], skeleton: nn.Module, tokens: int) -> None:
    """Raises ExportError where no file holds the embeddings of `tokens` tokens: the others' would be drawn at random."""
    weight = skeleton.get_input_embeddings().weight
    names = {name for name, other in skeleton.named_parameters(remove_duplicate=False) if other is weight}
    rows = {name: tensor.shape[0] for name, tensor in base.items() if name in names}
    for folder in folders:
        rows |= {name: tensor.shape[0] for name, tensor in whole_tensors(folder).items() if name in names}
    if rows and max(rows.values()) < tokens:
        raise ExportError(
            f"the vocabulary is to grow to {tokens} tokens, and neither base nor adapters hold embeddings of more than "
            f"{max(rows.values())}. Leave add_tokens, add_special_tokens and resize_vocab out, or train with them first: "
            "their rows are saved with the adapter"
        )


def _unquantized(model: ModelConfig) -> ModelConfig:
    if model.quantization is None:
        return model
    log.info(f"quantization_bit is left aside: the adapter is merged into the original weights of {model.model_name_or_path}")
    return model.model_copy(update={"quantization": None})


def _base_folder(model: ModelConfig) -> Path:
    model = settle(model, weights=True)
    if is_local(model.model_name_or_path):
        return Path(model.model_name_or_path).expanduser()
    found = snapshot_download(
        model.model_name_or_path, revision=model.model_revision, cache_dir=model.cache_dir, token=model.hf_hub_token
    )
    return Path(found)
