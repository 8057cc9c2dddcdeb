"""hone export: merge adapters into their base, write it, and prove that it is the trained model.

Holds no logic: it reads the settings, and only then imports what merges, so that a mistake in them is told at once.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from hone import log
from hone.config import Run, load
from hone.config.shards import is_in_shards
from hone.config.trained import other_than_trained
from hone.errors import at_once
from hone.table import Table

_LATER = Table(
    "step",
    {
        "whole": "hone.training.checkpoints.unshard:ordinary",
        "names": "hone.inference.names:looks",
        "codec": "hone.inference.codec:load_codec",
        "reader": "hone.models.media.reader:load_reader",
        "objective": "hone.objectives.build:build_objective",
        "data": "hone.data.build:build_data",
        "check": "hone.export.quantized.job:check_family",
        "export": "hone.export.job:export",
        "push": "hone.export.push:push",
    },
)


def main(arguments: list[str]) -> int:
    """`hone export run.yaml [key=value ...]`; 0, or ExportError (exit 1) where the result is not the trained model."""
    run = load(arguments, "export")
    at_once(_LATER.load("names")(run.chat, run.adapter))
    for line in other_than_trained(run.model, run.adapter, run.chat):
        log.info(f"note: {line}")
    whole = _LATER.load("whole") if is_in_shards(run.model.model_name_or_path) else nullcontext
    with whole(run) as made:
        report = export(made)
        print("\n".join(report.lines()), flush=True)
        if place := made.export.export_hub_model_id:
            _LATER.load("push")(report.folder, place, made.model, private=made.export.hub_private_repo)
    return 0


def export(run: Run) -> Any:
    """What was written of the run's model."""
    codec = load_codec(run, run.data.eval_dataset)
    if run.export.export_quantization_bit is not None:
        _LATER.load("check")(run.model)
    return _LATER.load("export")(
        run.model,
        run.adapter,
        run.export,
        dtype=run.serve.infer_dtype,
        tokenizer=codec.tokenizer,
        codec=codec,
        length=run.data.cutoff_len,
        calibration=read_calibration(run, codec),
        rows=read_rows(run, codec, run.data.eval_dataset, num_rows=64, length=run.data.cutoff_len),
    )


def load_codec(run: Run, names: tuple[str, ...]) -> Any:
    """The model's, with a reader of pictures and sounds where rows of `names` may hold them."""
    reader = _LATER.load("reader")(run.model) if names else None
    return _LATER.load("codec")(run.model, run.chat, reader=reader)


def read_calibration(run: Run, codec: Any) -> list[Any]:
    """Rows of export_quantization_dataset; none where it is not written."""
    export, named = run.export, run.export.export_quantization_dataset
    return read_rows(
        run,
        codec,
        (named,) if named else (),
        num_rows=export.export_quantization_nsamples,
        length=export.export_quantization_maxlen,
    )


def read_rows(run: Run, codec: Any, names: tuple[str, ...], *, num_rows: int, length: int) -> list[Any]:
    """The first `num_rows` sequences of the data sets `names`, cut at `length` tokens; none where none is named."""
    if not names:
        return []
    data = run.data.model_copy(update={"cutoff_len": length})
    found = _LATER.load("data")(data, _LATER.load("objective")(run.objective), codec, names=names, seed=run.train.seed)
    rows = (sequence for index in range(len(found)) for sequence in found[index].sequences)
    return [row for row, _ in zip(rows, range(num_rows), strict=False)]
