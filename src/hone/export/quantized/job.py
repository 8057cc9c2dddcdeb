"""Every weight of a recipe in few bits, into safetensors files.

Does not know what stands beside them, nor what is compared afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hone import log
from hone.chat.encoded import Encoded
from hone.config.export import ExportConfig
from hone.config.model import ModelConfig
from hone.errors import ExportError, MissingExtra
from hone.export.merge import BLOCK_BYTES, blocks
from hone.export.quantized.awq import smooth
from hone.export.quantized.forms import Form, form_of, packed_parts
from hone.export.quantized.gptq import gptq
from hone.export.quantized.shards import Shards
from hone.export.quantized.walk import Reached, walk, without_weights
from hone.export.recipe import Recipe, Step
from hone.export.source import DTYPES, read_json
from hone.export.write import Written
from hone.models.load import auto_class, load_config
from hone.models.media.families import FAMILIES
from hone.models.place import find_file, settle

CALIBRATED = ("gptq", "awq")


@dataclass(frozen=True)
class Quantized:
    """What was written. word: of the number format; settings: for config.json; notes and warnings: for people."""

    written: Written
    word: str
    settings: dict[str, Any]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


def write_quantized(
    model: ModelConfig,
    settings: ExportConfig,
    recipe: Recipe,
    skeleton: nn.Module,
    draft: Path,
    *,
    rows: Sequence[Encoded],
    device: torch.device,
) -> Quantized:
    """Write the recipe's tensors into `draft`. rows: of the calibration.

    Raises: ExportError for a model that has no such form, MissingExtra without the package that is to load it again.
    """
    form, method = require_form(settings), settings.export_quantization_method
    names, left = _choose(form, recipe, skeleton)
    shards, kept = Shards(draft, settings.export_size * 10**9), _plain_dtype(recipe)
    work = _Work(form, {step.slot.name: step for step in recipe.steps}, names, kept, device, shards)
    notes = [f"{len(names)} weights as {form.word} by {method}, {len(recipe.steps) - len(names)} tensors as they were"]
    warnings = _told_left(form, names, left, notes)
    done: set[str] = set()
    if method in CALIBRATED:
        config = load_config(model)
        with without_weights():
            module = auto_class(None, config).from_config(config, trust_remote_code=model.trust_remote_code)
        told = _calibrated(work, module, rows, method)
        done, notes = told[0], notes + told[1]
    for name in work.steps:
        if name not in done:
            work.write(name, work.read(name))
    kept_modules = sorted(name.removesuffix(".weight") for name in (*left, *_heads(form, skeleton)))
    return Quantized(shards.finish(), form.word, form.settings(kept_modules), tuple(notes), warnings)


def require_form(settings: ExportConfig) -> Form:
    """The form that the settings mean. Raises: MissingExtra without the package that is to load it again."""
    form = form_of(settings)
    if form.package == "compressed_tensors" and find_spec(form.package) is None:
        method = settings.export_quantization_method
        raise MissingExtra("compressed-tensors", "compressed", f"export_quantization_method: {method}")
    return form


def check_family(model: ModelConfig) -> None:
    """Raise ExportError for a model that takes pictures or sounds, before its weights and the texts are read."""
    found = find_file(settle(model), "config.json", reach=False)
    family = None if found is None else read_json(found).get("model_type")
    if family in FAMILIES:
        raise ExportError(
            f"export_quantization_bit: {model.model_name_or_path} is a {family}, and models that take pictures or sounds are not "
            "written in few bits in this version; leave export_quantization_bit out"
        )


def _told_left(form: Form, names: set[str], left: list[str], notes: list[str]) -> tuple[str, ...]:
    """A warning where most weights stay as they are, else a further note."""
    if not left:
        return ()
    said = f"{len(left)} weights are left as they are, their rows being no multiple of {form.group}: {left[0]} ..."
    if len(left) <= len(names):
        notes.append(said)
        return ()
    said = f"{said} Only {len(names)} are in few bits; write an export_quantization_group that divides the rows"
    log.warn(said)
    return (said,)


@dataclass(frozen=True)
class _Work:
    """names: of the weights in few bits; kept: the number format of what is not."""

    form: Form
    steps: dict[str, Step]
    names: set[str]
    kept: torch.dtype
    device: torch.device
    shards: Shards

    def read(self, name: str) -> Tensor:
        """A tensor of the result, merged, before it is rounded."""
        return torch.cat(list(blocks(self.steps[name], block_bytes=BLOCK_BYTES, device=str(self.device))))

    def write(self, name: str, weight: Tensor) -> None:
        """In few bits where it is one of those, else in the number format of the recipe."""
        if name in self.names:
            self.put(name, self.form.parts(weight.float(), self.kept))
        else:
            self.shards.add(name, weight.to(DTYPES[self.steps[name].slot.dtype]))

    def put(self, name: str, parts: dict[str, Tensor]) -> None:
        """The tensors that stand for one weight."""
        for part, tensor in parts.items():
            self.shards.add(f"{name.removesuffix('.weight')}.{part}", tensor)


def _choose(form: Form, recipe: Recipe, skeleton: nn.Module) -> tuple[set[str], list[str]]:
    """The names of the weights in few bits, and those that cannot be, because of the length of their rows.

    Raises: ExportError where a large weight of the files is no module of the model's: a mixture of experts.
    """
    modules = dict(skeleton.named_modules())
    names, left = set(), []
    for step in recipe.steps:
        name = step.slot.name
        module = modules.get(name.removesuffix(".weight")) if name.endswith(".weight") else None
        if len(step.slot.shape) > 1 and module is None:
            raise ExportError(
                f"export_quantization_bit: {name} is not a layer of {type(skeleton).__name__} by itself (a mixture of experts "
                "holds them together); leave it out, or write export_format: gguf"
            )
        if not isinstance(module, (nn.Linear, nn.Embedding) if form.embeddings else nn.Linear):
            continue
        if not form.embeddings and module is skeleton.get_output_embeddings():
            continue
        if step.slot.shape[-1] % form.group:
            left.append(name)
        else:
            names.add(name)
    if not names:
        raise ExportError(
            f"export_quantization_group: no weight has rows of a multiple of {form.group}; write a number that divides "
            f"{min(step.slot.shape[-1] for step in recipe.steps if len(step.slot.shape) > 1)}"
        )
    return names, left


def _heads(form: Form, skeleton: nn.Module) -> list[str]:
    head = skeleton.get_output_embeddings()
    return [] if form.embeddings else [f"{name}.weight" for name, module in skeleton.named_modules() if module is head]


def _plain_dtype(recipe: Recipe) -> torch.dtype:
    """Of the scales: as the weights that are not in few bits."""
    return next(DTYPES[step.slot.dtype] for step in recipe.steps if len(step.slot.shape) > 1)


def _calibrated(work: _Work, module: nn.Module, rows: Sequence[Encoded], method: str) -> tuple[set[str], list[str]]:
    """Round the layers one after the other by what they read; names of the tensors written, and notes."""
    grid, done, scaled, lacking = work.form.grid, set(), [], []
    assert grid is not None
    tokens = sum(len(row.ids) for row in rows)
    log.info(f"{method}: {len(rows)} rows of {tokens} tokens go through the model layer by layer")
    for reached in walk(module, work.read, rows, work.device):
        own = {path for path in reached.grams if f"{reached.name}.{path}.weight" in work.names}
        if method == "awq":
            scaled += smooth(reached, grid, work.kept, own)
        for path, weight in reached.layer.named_parameters():
            name = f"{reached.name}.{path}"
            linear = path.removesuffix(".weight")
            if linear not in own:
                if name in work.names:
                    lacking.append(name)
                work.write(name, weight.cpu())
            else:
                work.put(name, _rounded(work, reached, linear, method))
            done.add(name)
    notes = [f"calibrated on {len(rows)} rows, {tokens} tokens"]
    if method == "awq":
        notes.append(f"{len(scaled)} groups of weights were scaled by what they read")
    if lacking:
        notes.append(f"{len(lacking)} weights read nothing in the calibration and are rounded to the nearest: {lacking[0]} ...")
    return done, notes


@torch.no_grad()
def _rounded(work: _Work, reached: Reached, path: str, method: str) -> dict[str, Tensor]:
    """The parts of one weight; the layer has from now on what they stand for."""
    grid, weight_OI = work.form.grid, reached.layer.get_submodule(path).weight
    if method == "gptq":
        steps_OI, scales_OG = gptq(weight_OI, reached.grams[path], grid, work.kept)
    else:
        scales_OG = grid.scales(weight_OI, work.kept)
        steps_OI = grid.steps(weight_OI, scales_OG)
    weight_OI.copy_(grid.values(steps_OI, scales_OG))
    return packed_parts(grid, steps_OI, scales_OG, work.kept)
