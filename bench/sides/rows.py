"""The rows of a job's data set as messages, for the systems that are programmed and not told by a YAML.

Does not know tokens.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROLES = {"human": "user", "gpt": "assistant", "system": "system"}
Messages = list[dict[str, str]]


def read(job: dict[str, Any]) -> list[dict[str, Any]]:
    """The data set's file."""
    catalog = json.loads(Path(job["data"], "dataset_info.json").read_text())
    return json.loads(Path(job["data"], catalog[job["dataset"]]["file_name"]).read_text())


def answered(job: dict[str, Any]) -> list[dict[str, Messages]]:
    """Alpaca's rows: a question and its answer."""
    rows = []
    for row in read(job):
        asked = "\n".join(part for part in (row["instruction"], row["input"]) if part)
        rows.append({"prompt": [_said("user", asked)], "completion": [_said("assistant", row["output"])]})
    return rows


def pairs(job: dict[str, Any]) -> list[dict[str, Messages]]:
    """ShareGPT's rows with two answers."""
    return [
        {
            "prompt": [_said(ROLES[turn["from"]], turn["value"]) for turn in row["conversations"]],
            **{side: [_said("assistant", row[side]["value"])] for side in ("chosen", "rejected")},
        }
        for row in read(job)
    ]


def _said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
