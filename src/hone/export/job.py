"""One export from beginning to end: merge, files beside the weights, parity, report, and only then the folder's name.

Does not know the command line.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

import hone
from hone import log
from hone.chat.codec import Codec
from hone.chat.encoded import Encoded
from hone.config.adapter import Adapter
from hone.config.export import ExportConfig
from hone.config.model import ModelConfig
from hone.errors import ExportError, PlaceError
from hone.export.beside import copy_embedding, copy_kept, write_card, write_config, write_generation_config, write_tokenizer
from hone.export.folder import REPORT, check_place, check_space, failed_place, publish, sizes_of, unfinished
from hone.export.gguf.job import WHOLE, write_adapter, write_model
from hone.export.gguf.kinds import KINDS
from hone.export.ingredients import Ingredients, find_device, gather, plan
from hone.export.merge import merge
from hone.export.ollama import MODELFILE, write_modelfile
from hone.export.parity import Parity, format_name
from hone.export.quantized.job import write_quantized
from hone.export.recipe import plan_recipe
from hone.export.source import all_tensors, check_index, read_checkpoint
from hone.export.template import ChatTemplate, choose_template
from hone.export.trial import measure_parity
from hone.export.whole import merge_whole
from hone.export.write import Product, Written
from hone.models.shape import meta_model
from hone.models.value_head import FILE, copy_value_head, find_value_head


@dataclass(frozen=True)
class Report:
    """What was written where. dtype: the number format; parity: None where it was not measured, `unmeasured` then says why."""

    folder: Path
    parts: Ingredients
    product: Product
    dtype: str
    template: ChatTemplate
    parity: Parity | None
    unmeasured: str
    seconds: float

    @property
    def method(self) -> str:
        """How it was merged."""
        return self.product.method

    @property
    def written(self) -> Written:
        """Files and sizes."""
        return self.product.written

    @property
    def warnings(self) -> list[str]:
        """What makes the result doubtful, whatever parity says."""
        return [f"WARNING: {line}" for line in (*self.parts.strangers, *self.product.warnings)]

    def lines(self) -> list[str]:
        """For people."""
        files, written = self.written.files, self.written
        shown = files[0] if len(files) == 1 else f"{files[0]} ... {files[-1]} ({len(files)} files)"
        return [
            f"exported to {self.folder}: {written.num_tensors} tensors, {written.num_bytes / 1e6:,.1f} MB, {self.dtype}",
            f"weights: {shown}; {self.method}",
            *self.product.notes,
            *([f"value head: {FILE}"] if (self.folder / FILE).is_file() else []),
            f"chat template: {self.template.origin}",
            *self.warnings,
            self.verdict,
        ]

    @property
    def verdict(self) -> str:
        """Of parity; a comparison with weights that may be others than those of training says so itself."""
        if self.parity is None:
            return f"parity NOT measured: {self.unmeasured}"
        return f"{self.parity}{' (see the WARNING: with the base that is named here)' if self.parts.strangers else ''}"

    def as_dict(self) -> dict:
        """For export_report.json."""
        return {
            "hone": hone.__version__,
            "base": self.parts.name,
            "adapters": [str(folder) for folder in self.parts.folders],
            "method": self.method,
            "dtype": self.dtype,
            **asdict(self.written),
            "notes": list(self.product.notes),
            "warnings": self.warnings,
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
    calibration: Sequence[Encoded] = (),
    rows: Sequence[Encoded] = (),
) -> Report:
    """Write the merged model into settings.export_dir.

    dtype: as infer_dtype; "auto" keeps the base's. length: the training's cutoff_len, for rope_scaling. calibration: rows for an
    importance matrix; rows: those on which the perplexity of both models is compared.

    Raises: ExportError, ModelError; export_dir is then as it was before. One that fails parity is left under another name.
    """
    began = time.monotonic()
    if not settings.export_dir:
        raise PlaceError("export_dir is missing: write the folder into which the merged model goes")
    parts = gather(model, adapter)
    place = Path(settings.export_dir).expanduser()
    check_place(place, [parts.base, *parts.folders])
    check_place(failed_place(place), [parts.base, *parts.folders])  # has a name now: "." and "/" are refused above
    device = find_device(settings.export_device)
    with unfinished(place) as draft:
        template = choose_template(codec, tokenizer)
        if settings.export_format == "huggingface":
            told = {"dtype": dtype, "tokenizer": tokenizer, "device": device, "length": length}
            if settings.export_quantization_bit is None:
                product, target = _write_folder(parts, settings, draft, **told)
            else:
                product, target = _write_few_bits(parts, settings, draft, calibration, **told)
        elif settings.export_adapter_only:
            product, target = write_adapter(parts, draft, name=place.name), "f32"
        else:
            jinja, target = template.text or tokenizer.chat_template, settings.gguf_type
            of_text = {"tokenizer": tokenizer, "codec": codec, "template": jinja if template.agrees else None}
            product = write_model(
                parts, settings, draft, name=place.name, device=device, length=length, calibration=calibration, **of_text
            )
        _write_beside(parts, draft, tokenizer, codec, template)
        if target in KINDS and not settings.export_adapter_only:
            modelfile = write_modelfile(codec, product.written.files[0])
            (draft / MODELFILE).write_text(modelfile.text, encoding="utf-8")
            product = replace(product, notes=(*product.notes, modelfile.said))
        parity, unmeasured = None, "an adapter by itself is no model"
        if not settings.export_adapter_only:
            told = {"dtype": target, "device": device, "length": length, "head": parts.head, "rows": rows}
            parity, unmeasured = measure_parity(parts.model, adapter, product.file or draft, codec, **told)
        shown = format_name(target)
        report = Report(place, parts, product, shown, template, parity, unmeasured, time.monotonic() - began)
        _finish(report, draft)
    return report


def _write_folder(
    parts: Ingredients,
    settings: ExportConfig,
    draft: Path,
    *,
    dtype: str,
    tokenizer: PreTrainedTokenizerBase,
    device: torch.device,
    length: int | None,
) -> tuple[Product, str]:
    """Hugging Face's files, and safetensors' name of their number format."""
    recipe, reason, target = plan(parts, len(tokenizer), dtype)
    shard_bytes, head = settings.export_size * 10**9, parts.head
    if recipe is not None:
        check_space(draft, recipe.num_bytes)
        written = merge(recipe, draft, shard_bytes=shard_bytes, device=str(device))
        write_config(parts.model, parts.base, draft, recipe, target, length, head, tokenizer.pad_token_id)
    else:
        log.info(f"the whole model is merged in memory: {reason}")
        told = {"dtype": target, "shard_bytes": shard_bytes, "device": device, "length": length, "head": head}
        written = merge_whole(parts.model, parts.adapter, draft, **told)
    _read_back(draft, written)
    if file := find_value_head(parts.model, parts.folders):
        copy_value_head(file, draft)
    copy_embedding([parts.base, *parts.folders], draft)
    return Product(written, "merged rows at a time" if recipe is not None else f"merged in memory ({reason})"), target


def _write_few_bits(
    parts: Ingredients,
    settings: ExportConfig,
    draft: Path,
    calibration: Sequence[Encoded],
    *,
    dtype: str,
    tokenizer: PreTrainedTokenizerBase,
    device: torch.device,
    length: int | None,
) -> tuple[Product, str]:
    """Hugging Face's files with weights in few bits, and the word of their number format."""
    if parts.head is not None or find_value_head(parts.model, parts.folders):
        raise ExportError("export_quantization_bit: a model that scores is exported as it is; leave it out")
    recipe, reason, target = plan(parts, len(tokenizer), dtype)
    model, base, method = parts.model, parts.base, "merged tensor by tensor"
    if recipe is None:
        log.info(f"the whole model is merged in memory: {reason}")
        base, method = draft / WHOLE, f"merged in memory ({reason})"
        merge_whole(model, parts.adapter, base, dtype=target, shard_bytes=5 * 10**9, device=device, length=length)
        model = model.model_copy(update={"model_name_or_path": str(base), "rope_scaling": None})
        recipe = plan_recipe(read_checkpoint(base), [], meta_model(model), dtype=target)
    made = write_quantized(model, settings, recipe, meta_model(model), draft, rows=calibration, device=device)
    write_config(model, base, draft, recipe, target, length, None, tokenizer.pad_token_id, made.settings)
    if (draft / WHOLE).is_dir():
        shutil.rmtree(draft / WHOLE)
    _read_back(draft, made.written)
    copy_embedding([parts.base, *parts.folders], draft)
    return Product(made.written, method, notes=made.notes, warnings=made.warnings), made.word


def _read_back(draft: Path, written: Written) -> None:
    """Raise ExportError where the files do not hold what was written: a disk that lies, an index that points elsewhere."""
    tensors = all_tensors(draft)
    check_index(draft, tensors)
    seen, wanted = (len(tensors), sum(tensor.num_bytes for tensor in tensors.values())), (written.num_tensors, written.num_bytes)
    if seen != wanted:
        raise ExportError(
            f"the files hold {seen[0]} tensors of {seen[1]} bytes in all, but {wanted[0]} of {wanted[1]} were written; "
            "something else writes there, or the disk fails"
        )


def _finish(report: Report, draft: Path) -> None:
    """Write card and report and give the folder its name; a folder that failed parity gets another one. Raises: ExportError."""
    write_card(
        draft, report.folder.name, report.parts, report.product, dtype=report.dtype, said=[*report.warnings, report.verdict]
    )
    said = report.as_dict() | {"contents": sizes_of(draft)}
    (draft / REPORT).write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
    if report.parity is None or report.parity.passed:
        publish(draft, report.folder)
        return
    failed = failed_place(report.folder)
    publish(draft, failed)
    raise ExportError(f"the merged model is not the trained one. {report.verdict}. It was left in {failed} for you to look at.")


def _write_beside(
    parts: Ingredients, draft: Path, tokenizer: PreTrainedTokenizerBase, codec: Codec, template: ChatTemplate
) -> None:
    if parts.head is None:
        write_generation_config(parts.base, draft, codec.stop_ids, tokenizer.pad_token_id)
    write_tokenizer(tokenizer, draft, template.text)
    copy_kept(parts.base, draft)
    if not template.agrees:
        log.warn(f"chat template: {template.origin}. Whoever serves the exported model must render that format by other means.")
