"""Small runs as a user would write them: rows of uneven length, settings as a file, and what a run leaves, read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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
