"""hone parity: is B the model that A is? Logits, likeliest tokens, prompts' ids and perplexity of both.

Holds no logic: it reads the settings, and only then imports what compares, so that a mistake in them is told at once.
"""

from __future__ import annotations

from hone import log
from hone.commands.export import load_codec, read_rows
from hone.config import load
from hone.config.trained import other_than_trained
from hone.errors import HoneError
from hone.table import Table

_LATER = Table(
    "step",
    {
        "sides": "hone.export.sides:settings_of",
        "compare": "hone.export.sides:compare_sides",
    },
)


def main(arguments: list[str]) -> int:
    """`hone parity A B [FILE.yaml] [key=value ...]`; 0 where B is A within the tolerance of its number format, else 1."""
    places = [word for word in arguments if "=" not in word and not word.startswith("-") and not word.endswith((".yaml", ".yml"))]
    if len(places) != 2:
        raise HoneError("name the trained model (a folder, or an adapter's) and the exported one (a folder, or a .gguf file)")
    run = load([*(word for word in arguments if word not in places), *_LATER.load("sides")(places[0])], "parity")
    for line in other_than_trained(run.model, run.adapter, run.chat):
        log.info(f"note: {line}")
    names = run.data.eval_dataset or run.data.dataset
    codec = load_codec(run, names)
    rows = read_rows(run, codec, names, num_rows=64, length=run.data.cutoff_len)
    verdict = _LATER.load("compare")(run.model, run.adapter, places[1], codec, length=run.data.cutoff_len, rows=rows)
    print(verdict)
    return 0 if verdict.passed else 1
