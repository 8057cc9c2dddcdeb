"""hone export: merge adapters into their base, write it, and prove that it is the trained model.

Holds no logic: it puts rooms together.
"""

from __future__ import annotations

from hone import log
from hone.chat.codec import build_codec
from hone.config import load
from hone.config.trained import other_than_trained
from hone.export.job import export
from hone.models.catalog import family_template
from hone.models.tokenizer import load_tokenizer


def main(arguments: list[str]) -> int:
    """`hone export run.yaml [key=value ...]`; 0, or ExportError (exit 1) where the result is not the trained model."""
    run = load(arguments, "export")
    for line in other_than_trained(run.model, run.adapter, run.chat):
        log.info(f"note: {line}")
    tokenizer = load_tokenizer(run.model)
    codec = build_codec(run.chat, tokenizer, family=family_template(run.model.model_name_or_path))
    report = export(
        run.model,
        run.adapter,
        run.export,
        dtype=run.serve.infer_dtype,
        tokenizer=tokenizer,
        codec=codec,
        length=run.data.cutoff_len,
    )
    print("\n".join(report.lines()))
    return 0
