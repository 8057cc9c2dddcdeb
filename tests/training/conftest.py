"""A tiny run that training tests vary: rows of uneven length, a random Llama, settings as a user would write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "near",
    "Paris",
    "and",
    "five",
    "rivers",
    "of",
    "rain",
    "sing",
]


def make_rows(count: int) -> list[dict[str, str]]:
    """Rows of uneven length, no two alike."""
    rows = []
    for number in range(count):
        words = [WORDS[(number * 7 + step * step) % len(WORDS)] for step in range(3 + number * number % 23)]
        rows.append({"instruction": f"Say {number}: {' '.join(words[:5])}", "input": "", "output": " ".join(words)})
    return rows


@pytest.fixture
def tiny_run(tmp_path: Path, tiny_model_dir: Path) -> dict[str, Any]:
    """Flat settings of a LoRA run over 23 rows, on the CPU, without shuffling, writing below tmp_path."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "rows.json").write_text(json.dumps(make_rows(23)))
    (data / "dataset_info.json").write_text(json.dumps({"rows": {"file_name": "rows.json"}}))
    return {
        "model_name_or_path": str(tiny_model_dir),
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_target": "all",
        "dataset": "rows",
        "dataset_dir": str(data),
        "tokenized_path": str(tmp_path / "cache"),
        "cutoff_len": 256,
        "output_dir": str(tmp_path / "out"),
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "learning_rate": 0.01,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 2,
        "max_steps": 8,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_shuffling": True,
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 7,
    }


def write_run(settings: dict[str, Any], path: Path) -> Path:
    """The settings as a YAML file."""
    path.write_text(yaml.safe_dump(settings))
    return path


def losses_of(output_dir: str | Path) -> list[float]:
    """The logged training losses, in order."""
    lines = (Path(output_dir) / "trainer_log.jsonl").read_text().splitlines()
    return [record["loss"] for record in map(json.loads, lines) if "loss" in record]


def weights_of(folder: str | Path) -> dict[str, Any]:
    """The safetensors of a folder, by name."""
    from safetensors.torch import load_file

    found: dict[str, Any] = {}
    for path in sorted(Path(folder).glob("*.safetensors")):
        found.update(load_file(path))
    assert found, f"no weights in {folder}"
    return found


def largest_difference(left: dict[str, Any], right: dict[str, Any]) -> float:
    """The largest absolute difference of two sets of tensors of the same names."""
    assert left.keys() == right.keys()
    return max(float((left[name].double() - right[name].double()).abs().max()) for name in left)
