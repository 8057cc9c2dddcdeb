"""Guess: a data set given as a plain file path; its first row shows its shape, where only one reading is possible.

Does not know dataset_info.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

from hone.data.catalog import OPENAI_TAGS, Columns, DatasetSpec
from hone.data.files import open_source
from hone.errors import DataError

_EMPTY = {"prompt": None, "query": None, "response": None, "messages": None}


def guess_spec(path: str) -> DatasetSpec:
    """`guess_spec("rows.jsonl")`; DataError where the first row could be read in no way or in several."""
    plain = DatasetSpec(path, "file", str(Path(path).expanduser().absolute()))
    first = next((row.value for row in open_source(plain).rows() if row.value is not None), None)
    if first is None:
        raise DataError(f"{path} holds no row that can be read")
    shapes = [DatasetSpec(path, "file", plain.place, **reading) for reading in _readings(first)]
    if len(shapes) != 1:
        seen = "fits several shapes" if shapes else "fits no shape"
        raise DataError(
            f"{path}: its first row ({', '.join(map(str, first))}) {seen}; "
            "give it an entry in dataset_info.json with formatting and columns"
        )
    return shapes[0]


def _readings(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every way to read the row, as settings of a DatasetSpec."""
    also = {name: name for name in ("system", "tools", "history") if name in row}
    readings: list[dict[str, Any]] = []
    for column in ("messages", "conversations"):
        keys = _message_keys(row.get(column))
        named = Columns(**{**_EMPTY, "messages": column, **{key: also[key] for key in also if key != "history"}})
        if {"role", "content"} <= keys:
            readings.append({"shape": "openai", "columns": named, "tags": OPENAI_TAGS})
        if {"from", "value"} <= keys:
            readings.append({"shape": "sharegpt", "columns": named})
    for prompt, response in product(("instruction", "prompt", "question"), ("output", "response", "answer")):
        if prompt in row and response in row:
            query = "input" if prompt == "instruction" and "input" in row else None
            readings.append({"columns": Columns(**{**_EMPTY, "prompt": prompt, "query": query, "response": response, **also})})
    if "text" in row and not readings:
        readings.append({"columns": Columns(**{**_EMPTY, "prompt": "text"})})
    return readings


def _message_keys(value: Any) -> set[str]:
    return set(value[0]) if isinstance(value, list) and value and isinstance(value[0], Mapping) else set()
