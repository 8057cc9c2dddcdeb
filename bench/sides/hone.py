"""hone, by its own command line and from the same YAML as LLaMA-Factory.

Does not know what is watched.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sides.llamafactory import command
from sides.llamafactory import words as yaml_words


def words(job: dict[str, Any]) -> dict[str, Any]:
    """LLaMA-Factory's YAML, and a token cache of this run alone."""
    return {"tokenized_path": "cache"} | yaml_words(job)


def train(job: dict[str, Any]) -> None:
    """`hone train run.yaml`."""
    command("hone", words(job))


def ready(job: dict[str, Any]) -> Callable[[], int]:
    """Everything imported and the tokenizer loaded; what is left is to prepare the data, as its training does."""
    from hone.chat.codec import build_codec
    from hone.config import load
    from hone.data.build import build_data
    from hone.models.tokenizer import load_tokenizer
    from hone.objectives.build import build_objective

    Path("run.yaml").write_text(json.dumps(words(job)))
    run = load(["run.yaml"], "train")
    codec, objective = build_codec(run.chat, load_tokenizer(run.model), family=""), build_objective(run.objective)
    return lambda: len(build_data(run.data, objective, codec, names=run.data.dataset, seed=run.train.seed))
