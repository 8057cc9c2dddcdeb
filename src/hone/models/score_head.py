"""The head that scores whole texts (transformers' ForSequenceClassification): what its numbers are called and where it says so.

Does not know how it is learned, nor what the numbers are used for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from transformers import PretrainedConfig, PreTrainedModel

from hone.config.model import ModelConfig
from hone.errors import ModelError
from hone.models.place import find_file, settle

FILE = "score_head.json"
"""Beside an adapter, what a whole model's config.json says of the head: the base's config knows nothing of it."""
NAME = "score"
"""transformers' name of the head in causal families: a linear layer without bias, `score.weight` [C, D]."""
_CLASS = "ForSequenceClassification"
_IN_ADAPTER = f"base_model.model.{NAME}.weight"

Problem = Literal["single_label_classification", "regression", ""]


@dataclass(frozen=True)
class ScoreHead:
    """labels: the name of each number, in order. problem: Hugging Face's problem_type, "" for a reranker's one score.

    text: how a reranker's query and document are written as one text, with {query} and {document}; "" for a classifier.
    """

    labels: tuple[str, ...]
    problem: Problem = "single_label_classification"
    text: str = ""

    def settings(self) -> dict[str, Any]:
        """What config.json says of it."""
        named = {"id2label": dict(enumerate(self.labels)), "label2id": {name: number for number, name in enumerate(self.labels)}}
        return {**named, "problem_type": self.problem or None, **({"rerank_text": self.text} if self.text else {})}

    def apply(self, config: PretrainedConfig, pad_id: int) -> None:
        """Make `config` one of a model with this head. pad_id: by it transformers finds where a text ends."""
        for name, value in self.settings().items():
            setattr(config, name, value)
        config.pad_token_id = config.get_text_config().pad_token_id = pad_id


def read_settings(said: Mapping[str, Any]) -> ScoreHead:
    """The head that a config.json, or FILE, speaks of; without names there are transformers' two, LABEL_0 and LABEL_1."""
    names = said.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
    labels = tuple(names[key] for key in sorted(names, key=int))
    problem = said.get("problem_type") or ("single_label_classification" if len(labels) > 1 else "")
    return ScoreHead(labels, problem, said.get("rerank_text") or "")


def is_scoring(config: PretrainedConfig) -> bool:
    """Whether a config is that of a whole model with a head that scores texts."""
    return _scores(config.architectures)


def _scores(architectures: Sequence[str] | None) -> bool:
    return any(name.endswith(_CLASS) for name in architectures or ())


def find_score_head(model: ModelConfig, adapters: Sequence[Path] = ()) -> ScoreHead | None:
    """The head of the last of the adapters that has one, or else of the model; None where there is none."""
    for folder in reversed(adapters):
        if (folder / FILE).is_file():
            return read_settings(_json(folder / FILE))
        if _json(folder / "adapter_config.json").get("task_type") == "SEQ_CLS":
            return ScoreHead(tuple(f"LABEL_{number}" for number in range(_num_labels(folder / "adapter_model.safetensors"))))
    found = find_file(settle(model), "config.json", reach=False)
    said = _json(found) if found else {}
    return read_settings(said) if _scores(said.get("architectures")) else None


@torch.no_grad()
def draw_head(module: PreTrainedModel) -> None:
    """Give the head new numbers, from torch's generator on the CPU, so that they are the same on every device."""
    weight = module.get_submodule(NAME).weight
    spread = module.config.get_text_config().to_dict().get("initializer_range") or 0.02
    weight.copy_(torch.randn(weight.shape) * spread)


def _json(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise ModelError(f"{file} cannot be read: {problem}") from problem


def _num_labels(file: Path) -> int:
    try:
        with safe_open(file, framework="pt") as opened:
            if _IN_ADAPTER in opened.keys():  # noqa: SIM118 - no mapping
                return opened.get_slice(_IN_ADAPTER).get_shape()[0]
    except (OSError, SafetensorError) as problem:
        raise ModelError(f"{file} cannot be read: {problem}") from problem
    raise ModelError(f"{file} is of a model that scores texts and holds no {_IN_ADAPTER}: its head is of another family")
