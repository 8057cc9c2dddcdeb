"""One export from beginning to end: merge, files beside the weights, parity, report, and only then the folder's name.

Does not know the command line.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from torch import nn
from transformers import PreTrainedTokenizerBase

import hone
from hone import log
from hone.adapters.folder import folders_of
from hone.chat.codec import Codec
from hone.config.adapter import Adapter
from hone.config.model import ModelConfig
from hone.config.use import ExportConfig
from hone.errors import ExportError, PlaceError
from hone.export.beside import copy_embedding, copy_kept, write_card, write_config, write_generation_config, write_tokenizer
from hone.export.folder import REPORT, check_place, check_space, failed_place, publish, sizes_of, unfinished
from hone.export.lora import NeedsWholeModel, read_adapter, whole_tensors
from hone.export.merge import merge
from hone.export.parity import Parity
from hone.export.recipe import Recipe, plan_recipe
from hone.export.source import Stored, check_index, main_dtype, read_checkpoint, read_json, torch_name
from hone.export.template import ChatTemplate, choose_template
from hone.export.trial import measure_parity
from hone.export.whole import merge_whole
from hone.export.write import Written
from hone.models.place import is_local, settle
from hone.models.score_head import ScoreHead, find_score_head
from hone.models.shape import meta_model
from hone.models.value_head import FILE, copy_value_head, find_value_head

_CODES = {torch_name(code): code for code in ("F32", "F16", "BF16")}


@dataclass(frozen=True)
class Report:
    """What was written where. method: how it was merged; parity: None where it was not measured, `unmeasured` then says why."""

    folder: Path
    base: str
    adapters: tuple[str, ...]
    method: str
    dtype: str
    written: Written
    template: ChatTemplate
    parity: Parity | None
    unmeasured: str
    seconds: float

    def lines(self) -> list[str]:
        """For people."""
        files = self.written.files
        shown = files[0] if len(files) == 1 else f"{files[0]} ... {files[-1]} ({len(files)} files)"
        size = f"{self.written.num_tensors} tensors, {self.written.num_bytes / 1e6:,.1f} MB, {self.dtype}"
        return [
            f"exported to {self.folder}: {size}",
            f"weights: {shown}; {self.method}",
            *([f"value head: {FILE}"] if (self.folder / FILE).is_file() else []),
            f"chat template: {self.template.origin}",
            str(self.parity) if self.parity else f"parity NOT measured: {self.unmeasured}",
        ]

    def as_dict(self) -> dict:
        """For export_report.json."""
        return {
            "hone": hone.__version__,
            "base": self.base,
            "adapters": list(self.adapters),
            "method": self.method,
            "dtype": self.dtype,
            **asdict(self.written),
            "chat_template": {"agrees": self.template.agrees, "origin": self.template.origin},
            "parity": self.parity.as_dict() if self.parity else {"measured": False, "reason": self.unmeasured},
            "seconds": round(self.seconds, 2),
        }


def export(
    model: ModelConfig,
    adapter: Adapter,
    settings: ExportConfig,
    *,
    dtype: str,
    tokenizer: PreTrainedTokenizerBase,
    codec: Codec,
    length: int | None = None,
) -> Report:
    """Write the merged model into settings.export_dir.

    dtype: as infer_dtype; "auto" keeps the base's. length: the training's cutoff_len, for rope_scaling.

    Raises: ExportError, ModelError; export_dir is then as it was before. One that fails parity is left under another name.
    """
    began = time.monotonic()
    if not settings.export_dir:
        raise PlaceError("export_dir is missing: write the folder into which the merged model goes")
    plain = _unquantized(model)
    base, folders = _base_folder(plain), folders_of(adapter)
    place = Path(settings.export_dir).expanduser()
    check_place(place, [base, *folders])
    check_place(failed_place(place), [base, *folders])  # has a name now: "." and "/" are refused above
    head = find_score_head(plain, folders)
    recipe, reason, target = _plan(plain, base, folders, tokenizer, dtype, head)
    device = _device(settings.export_device)
    shard_bytes = settings.export_size * 10**9
    with unfinished(place) as draft:
        if recipe is not None:
            check_space(draft, recipe.num_bytes)
            written = merge(recipe, draft, shard_bytes=shard_bytes, device=str(device))
            write_config(plain, base, draft, recipe, target, length, head, tokenizer.pad_token_id)
        else:
            log.info(f"the whole model is merged in memory: {reason}")
            written = merge_whole(
                plain, adapter, draft, dtype=target, shard_bytes=shard_bytes, device=device, length=length, head=head
            )
        _read_back(draft, written)
        if file := find_value_head(plain, folders):
            copy_value_head(file, draft)
        copy_embedding([base, *folders], draft)
        template = _write_beside(base, draft, tokenizer, codec, writes=head is None)
        parity, unmeasured = measure_parity(plain, adapter, draft, codec, dtype=target, device=device, length=length, head=head)
        method = "merged rows at a time" if recipe is not None else f"merged in memory ({reason})"
        names = tuple(str(folder) for folder in folders)
        report = Report(
            place,
            plain.model_name_or_path,
            names,
            method,
            torch_name(target),
            written,
            template,
            parity,
            unmeasured,
            time.monotonic() - began,
        )
        _finish(report, draft, scores=head is not None)
    return report


def _read_back(draft: Path, written: Written) -> None:
    """Raise ExportError where the files do not hold what was written: a disk that lies, an index that points elsewhere."""
    tensors = read_checkpoint(draft)
    check_index(draft, tensors)
    seen, wanted = (len(tensors), sum(tensor.num_bytes for tensor in tensors.values())), (written.num_tensors, written.num_bytes)
    if seen != wanted:
        raise ExportError(
            f"the files hold {seen[0]} tensors of {seen[1]} bytes in all, but {wanted[0]} of {wanted[1]} were written; "
            "something else writes there, or the disk fails"
        )


def _finish(report: Report, draft: Path, *, scores: bool) -> None:
    """Write card and report and give the folder its name; a folder that failed parity gets another one. Raises: ExportError."""
    verdict = str(report.parity) if report.parity else f"parity not measured: {report.unmeasured}"
    named = {"name": report.folder.name, "base": report.base, "adapters": report.adapters, "dtype": report.dtype}
    write_card(draft, **named, parity=verdict, scores=scores)
    said = report.as_dict() | {"contents": sizes_of(draft)}
    (draft / REPORT).write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
    if report.parity is None or report.parity.passed:
        publish(draft, report.folder)
        return
    failed = failed_place(report.folder)
    publish(draft, failed)
    raise ExportError(f"the merged model is not the trained one. {verdict}. It was left in {failed} for you to look at.")


def _plan(
    model: ModelConfig,
    base: Path,
    folders: Sequence[Path],
    tokenizer: PreTrainedTokenizerBase,
    dtype: str,
    head: ScoreHead | None,
) -> tuple[Recipe | None, str, str]:
    """The recipe, or None and why the whole model is needed; and safetensors' name of the main number format written."""
    tensors = read_checkpoint(base)
    stored = main_dtype(tensors) if tensors else _said_dtype(base)
    target = stored if dtype == "auto" else _CODES[dtype]
    skeleton = meta_model(model, head)
    if head is not None:  # what gave words has no place in it
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("lm_head.")}
    if model.resize_vocab or model.add_tokens or model.add_special_tokens:
        _check_rows(tensors, folders, skeleton, len(tokenizer))
    try:
        if not tensors:
            raise NeedsWholeModel("the base has no safetensors, only older files")
        recipe = plan_recipe(tensors, [read_adapter(folder) for folder in folders], skeleton, dtype=target)
        if recipe.rows is not None and "vocab_size" not in read_json(base / "config.json"):
            raise NeedsWholeModel("the vocabulary grows in a nested config")
    except NeedsWholeModel as reason:
        return None, str(reason), target
    return recipe, "", target


def _said_dtype(base: Path) -> str:
    """The number format that config.json names, for a base whose files do not say it."""
    config = read_json(base / "config.json")
    return _CODES.get(config.get("dtype") or config.get("torch_dtype") or "", "F32")


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


def _write_beside(base: Path, draft: Path, tokenizer: PreTrainedTokenizerBase, codec: Codec, *, writes: bool) -> ChatTemplate:
    if writes:
        write_generation_config(base, draft, codec.stop_ids, tokenizer.pad_token_id)
    template = choose_template(codec, tokenizer)
    write_tokenizer(tokenizer, draft, template.text)
    copy_kept(base, draft)
    if not template.agrees:
        log.warn(f"chat template: {template.origin}. Whoever serves the exported model must render that format by other means.")
    return template


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


def _device(name: str) -> torch.device:
    accelerator = torch.accelerator.current_accelerator(check_available=True) if name == "auto" else None
    return accelerator or torch.device("cpu")
