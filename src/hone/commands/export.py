"""hone export: merge adapters into their base, write it, and prove that it is the trained model.

Holds no logic: it reads the settings, and only then imports what merges, so that a mistake in them is told at once.
"""

from __future__ import annotations

from hone import log
from hone.config import load
from hone.config.trained import other_than_trained
from hone.table import Table

_LATER = Table(
    "step",
    {
        "tokenizer": "hone.models.tokenizer:load_tokenizer",
        "family": "hone.models.catalog:family_template",
        "codec": "hone.chat.codec:build_codec",
        "export": "hone.export.job:export",
    },
)


def main(arguments: list[str]) -> int:
    """`hone export run.yaml [key=value ...]`; 0, or ExportError (exit 1) where the result is not the trained model."""
    run = load(arguments, "export")
    for line in other_than_trained(run.model, run.adapter, run.chat):
        log.info(f"note: {line}")
    tokenizer = _LATER.load("tokenizer")(run.model)
    family = _LATER.load("family")(run.model.model_name_or_path)
    report = _LATER.load("export")(
        run.model,
        run.adapter,
        run.export,
        dtype=run.serve.infer_dtype,
        tokenizer=tokenizer,
        codec=_LATER.load("codec")(run.chat, tokenizer, family=family),
        length=run.data.cutoff_len,
    )
    print("\n".join(report.lines()))
    return 0
