"""One GGUF file: the recipe's tensors under llama.cpp's names, with its words for architecture and tokenizer.

Does not know what is compared afterwards, nor what stands beside the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from hone import log
from hone.chat.codec import Codec
from hone.chat.encoded import Encoded
from hone.config.export import ExportConfig
from hone.errors import ExportError
from hone.export.folder import check_space
from hone.export.gguf.adapter import plan_adapter
from hone.export.gguf.families import Config, Family, family_of, settings_of
from hone.export.gguf.kinds import KINDS, Kind
from hone.export.gguf.read import Head, read_head
from hone.export.gguf.tensors import plan_tensors
from hone.export.gguf.vocabulary import vocabulary_settings
from hone.export.gguf.write import bytes_of, write_gguf
from hone.export.ingredients import Ingredients, plan
from hone.export.lora import read_adapter
from hone.export.recipe import Recipe, plan_recipe
from hone.export.source import read_checkpoint
from hone.export.whole import merge_whole
from hone.export.write import Product, Written
from hone.models.llamacpp.library import LlamaCpp
from hone.models.load import load_config
from hone.models.rope import stretch
from hone.models.shape import meta_model
from hone.models.value_head import find_value_head

WHOLE = "merged"
"""Folder inside the draft for a model that is merged in memory first."""


@dataclass(frozen=True)
class _Model:
    """A model about to be written."""

    recipe: Recipe
    config: Config
    family: Family
    method: str


def write_model(
    parts: Ingredients,
    settings: ExportConfig,
    draft: Path,
    *,
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    codec: Codec,
    template: str | None,
    device: torch.device,
    length: int | None,
    calibration: Sequence[Encoded],
) -> Product:
    """Write the merged model into `draft` as NAME-TYPE.gguf.

    name: of the model; template: Jinja for the file, None for none; calibration: rows for the importance matrix. Raises:
    ExportError for a family, a setting or a tokenizer that llama.cpp has not; MissingExtra; OSError where the disk is full.
    """
    if parts.head is not None or find_value_head(parts.model, parts.folders):
        raise ExportError("export_format: gguf: llama.cpp runs the part that writes, and this model scores; leave it out")
    kind = KINDS[settings.gguf_type]
    model = _prepare(parts, draft, device, len(tokenizer), length)
    made, left = plan_tensors(model.recipe, model.family, model.config)
    said = {"general.type": "model", "general.name": name} | settings_of(model.family, model.config)
    rows = next(one.shape[0] for one in made if one.name == "token_embd.weight")
    said |= vocabulary_settings(tokenizer, codec, rows, parts.base, template)
    file = draft / f"{name}-{kind.word.upper()}.gguf"
    first = kind if kind.plain else KINDS[_before(model.recipe)]
    check_space(draft, sum(bytes_of(one, first.plain) for one in made) * (1 if kind.plain else 2))
    target = file if kind.plain else draft / "unquantized.gguf"
    write_gguf(target, model.family.architecture, said, made, plain=first.plain, number=first.number, device=str(device))
    if not kind.plain:
        _quantize(target, file, kind, calibration)
        target.unlink()
    notes = _notes(model, left, kind, read := read_head(file))
    if (whole := draft / WHOLE).is_dir():
        for path in whole.iterdir():
            path.unlink()
        whole.rmdir()
    return Product(Written((file.name,), read.num_bytes, read.num_tensors), model.method, file, notes)


def _prepare(parts: Ingredients, draft: Path, device: torch.device, num_tokens: int, length: int | None) -> _Model:
    """The recipe in fp32, so that the number format is the only rounding; merged in memory first where it must be."""
    recipe, reason, _ = plan(parts, num_tokens, "float32")
    config = load_config(parts.model)
    if parts.model.rope_scaling:
        stretch(config, parts.model.rope_scaling, length)
    method = "merged rows at a time"
    if recipe is None:
        log.info(f"the whole model is merged in memory: {reason}")
        method, whole = f"merged in memory ({reason})", draft / WHOLE
        merge_whole(parts.model, parts.adapter, whole, dtype="F32", shard_bytes=5 * 10**9, device=device, length=length)
        moved = parts.model.model_copy(update={"model_name_or_path": str(whole), "rope_scaling": None})
        recipe = plan_recipe(read_checkpoint(whole), [], meta_model(moved), dtype="F32")
        config = load_config(moved)
    told = _told(config)
    return _Model(recipe, told, family_of(told), method)


def _told(config: PretrainedConfig) -> Config:
    """config.json with its defaults. Raises: ExportError for a model that sees or hears: it would lose that."""
    if config.get_text_config() is not config:
        raise ExportError(f"export_format: gguf writes models of text alone, and {config.model_type} has further parts")
    return config.to_dict()


def _before(recipe: Recipe) -> str:
    """The number format that llama.cpp quantizes from: that of the base's own files, so that nothing is lost on the way."""
    stored = {step.source.dtype for step in recipe.steps if not step.additions and len(step.slot.shape) > 1}
    merged = any(step.additions for step in recipe.steps)
    return "f32" if merged or "F32" in stored else "bf16" if "BF16" in stored else "f16"


def _quantize(source: Path, target: Path, kind: Kind, calibration: Sequence[Encoded]) -> None:
    """By llama.cpp. Of an expert that no calibration row is sent to nothing is known, and its inputs weigh alike."""
    with LlamaCpp(f"gguf_type: {kind.word}") as library:
        importance: dict[str, np.ndarray] = {}
        if calibration:
            model = library.load(source, exact=True)
            importance = model.importance([row.ids.tolist() for row in calibration])
            model.close()
        library.quantize(source, target, kind.number, importance)


def _notes(model: _Model, left: list[str], kind: Kind, read: Head) -> tuple[str, ...]:
    notes = [f"tensors: {', '.join(f'{count} {name}' for name, count in read.types.items())}"]
    if left:
        notes.append(f"{len(left)} tensors of layers that guess further tokens are left out: {left[0]} ...")
    if differs := model.family.differs(model.config):
        notes.append(differs)
    if not kind.plain and "_K" not in "".join(read.types) and "IQ" not in "".join(read.types):
        notes.append("rows of this model are no multiple of 256: llama.cpp holds them in wider formats than the one named")
    return tuple(notes)


def write_adapter(parts: Ingredients, draft: Path, *, name: str) -> Product:
    """Write the adapter by itself as NAME-lora.gguf, for its base's file. Raises: ExportError where it is no plain LoRA."""
    if len(parts.folders) != 1:
        raise ExportError(f"export_adapter_only: true writes one adapter, and {len(parts.folders)} are named")
    config = _told(load_config(parts.model))
    family = family_of(config)
    made, alpha = plan_adapter(read_adapter(parts.folders[0]), family, config)
    file = draft / f"{name}-lora.gguf"
    said = {"general.type": "adapter", "general.name": name, "adapter.type": "lora", "adapter.lora.alpha": alpha}
    kind = KINDS["f32"]
    write_gguf(file, family.architecture, said, made, plain=kind.plain, number=kind.number, device="cpu")
    read = read_head(file)
    return Product(Written((file.name,), read.num_bytes, read.num_tensors), "the adapter by itself", file)
