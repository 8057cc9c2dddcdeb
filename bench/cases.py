"""Cases: cases.toml read and looked over, and the job that each run of a case is given.

Does not know how a system is told of a job.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
WORKS = ("train", "start", "data")
RANK = 8


@dataclass(frozen=True)
class Setting:
    """One column of a case: a system and its own words. name: "fp32", "stock", "best"."""

    system: str
    name: str
    words: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """ "trl best"."""
        return f"{self.system} {self.name}"

    @property
    def exact(self) -> bool:
        """Whether it computes in fp32 and takes the same rows a step as hone."""
        stock_in_bf16 = self.system == "trl" and self.words.get("bf16") is not False
        return not (self.words.get("bf16") or stock_in_bf16 or self.repacks)

    @property
    def repacks(self) -> bool:
        """Whether a step takes other rows than hone's, as packing puts them together anew."""
        return bool(self.words.get("packing"))


@dataclass(frozen=True)
class Case:
    """A job that several systems do. copies: times the demo is taken; extra: runs only where it is named.

    model, tokenizer, length: of a case on a GPU: a real model's config, its tokenizer, and tokens of a row.
    """

    name: str
    work: str
    title: str
    settings: tuple[Setting, ...] = ()
    stage: str = "sft"
    method: str = "lora"
    dataset: str = "short"
    batch: int = 8
    learning_rate: float = 1e-3
    copies: int = 1
    extra: bool = False
    model: str = ""
    tokenizer: str = ""
    length: int = 0
    rank: int = RANK

    def job(self, setting: Setting, inputs: Mapping[str, Any], *, steps: int, cpu: bool = True) -> dict[str, Any]:
        """What job.json tells a run. inputs: what inputs.make gave: model, data, vocabulary, pad_id, tokens."""
        taken = inputs["tokens"][self.dataset][: steps * self.batch]
        return {
            "work": "train", "system": setting.system, "stage": self.stage, "method": self.method, "dataset": self.dataset,
            "batch": self.batch, "steps": steps, "learning_rate": self.learning_rate, "rank": self.rank, "cpu": cpu,
            "words": {name: None if value == "none" else value for name, value in setting.words.items()},
            "tokens_per_step": math.ceil(sum(taken) / steps / 8) * 8,  # LLaMA-Factory pads packed rows to a multiple of 8
            **{name: inputs[name] for name in ("model", "data", "vocabulary", "pad_id", "longest")},
        }  # fmt: skip


def read(file: Path = HERE / "cases.toml") -> tuple[dict[str, Any], dict[str, Case]]:
    """The whole table, and its cases by name; ValueError for a case that is none."""
    told = tomllib.loads(file.read_text())
    cases = {}
    for name, words in told["cases"].items():
        if words["work"] not in WORKS:
            raise ValueError(f"{file.name}: case {name}: work is {words['work']!r}, not one of {', '.join(WORKS)}")
        peers = told["peers"][words.pop("peers", words.get("stage"))] if words["work"] == "train" else {}
        settings = tuple(Setting(system, its, more) for system, named in peers.items() for its, more in named.items())
        cases[name] = Case(name, settings=settings, **words)
    return told, cases
