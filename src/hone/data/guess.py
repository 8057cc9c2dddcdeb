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
from hone.data.sample import Dialog, Labelled, Pair, Sample
from hone.errors import DataError

_EMPTY = {"prompt": None, "query": None, "response": None, "messages": None}
_PROMPTS = ("instruction", "prompt", "question")


def guess_spec(path: str, wanted: type[Sample] = Dialog) -> DatasetSpec:
    """`guess_spec("rows.jsonl")`; DataError where the first row could be read in no way or in several.

    wanted: what its rows are to be. Those with a chosen and a rejected answer are pairs, unless one answer is wanted and they
    have it too. A labelled text is `text` and `label`.
    """
    plain = DatasetSpec(path, "file", str(Path(path).expanduser().absolute()))
    first = next((row.value for row in open_source(plain).rows() if row.value is not None), None)
    if first is None:
        raise DataError(f"{path} holds no row that can be read")
    single, pairs = _readings(first), _pairs(first)
    chosen = pairs if pairs and (wanted is Pair or not single) else single
    if wanted is Labelled and {"text", "label"} <= set(first):
        chosen = [{"columns": Columns(**{**_EMPTY, "prompt": "text", "label": "label"})}]
    shapes = [DatasetSpec(path, "file", plain.place, **reading) for reading in chosen]
    if len(shapes) != 1:
        seen = "fits several shapes" if shapes else "fits no shape"
        raise DataError(
            f"{path}: its first row ({', '.join(map(str, first))}) {seen}; "
            "give it an entry in dataset_info.json with formatting and columns"
        )
    return shapes[0]


def _readings(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every way to read the row as one answer, as settings of a DatasetSpec."""
    also, readings = _beside(row), []
    for column in ("messages", "conversations"):
        shape = _shape(row.get(column))
        if shape and not (_has_sides(row) and _asks(row[column])):
            named = Columns(**{**_EMPTY, "messages": column, **{key: also[key] for key in also if key != "history"}})
            readings.append({**shape, "columns": named})
    for prompt, response in product(_PROMPTS, ("output", "response", "answer")):
        if prompt in row and response in row:
            query = "input" if prompt == "instruction" and "input" in row else None
            readings.append({"columns": Columns(**{**_EMPTY, "prompt": prompt, "query": query, "response": response, **also})})
    if "text" in row and not readings:
        readings.append({"columns": Columns(**{**_EMPTY, "prompt": "text"})})
    return readings


def _pairs(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every way to read the row as a chosen and a rejected answer: texts to a question, messages to messages, whole talks."""
    if not _has_sides(row):
        return []
    also, side = _beside(row), row["chosen"]
    sides = {**_EMPTY, "chosen": "chosen", "rejected": "rejected"}
    in_messages = sides | {key: also[key] for key in also if key != "history"}
    readings: list[dict[str, Any]] = []
    for column in ("messages", "conversations"):
        if shape := _shape(row.get(column)):
            readings.append({**shape, "columns": Columns(**{**in_messages, "messages": column}), "ranking": True})
    if not readings and (shape := _shape(side)):
        readings.append({**shape, "columns": Columns(**{**in_messages, "messages": "messages"}), "ranking": True})
    if not readings and isinstance(side, str):
        for prompt in (name for name in _PROMPTS if name in row):
            query = "input" if prompt == "instruction" and "input" in row else None
            readings.append({"columns": Columns(**{**sides, "prompt": prompt, "query": query, **also}), "ranking": True})
    return readings


def _has_sides(row: Mapping[str, Any]) -> bool:
    return "chosen" in row and "rejected" in row


def _beside(row: Mapping[str, Any]) -> dict[str, str]:
    return {name: name for name in ("system", "tools", "history") if name in row}


def _shape(messages: Any) -> dict[str, Any]:
    """The shape of a list of messages, {} where it is none."""
    first = messages[0] if isinstance(messages, list) and messages else None
    keys = set(first) if isinstance(first, Mapping) else set()
    if {"role", "content"} <= keys:
        return {"shape": "openai", "tags": OPENAI_TAGS}
    return {"shape": "sharegpt"} if {"from", "value"} <= keys else {}


def _asks(messages: list[Any]) -> bool:
    """Whether the last message is a user's, so that the answer to it stands elsewhere."""
    last = messages[-1]
    return isinstance(last, Mapping) and (last.get("role") == "user" or last.get("from") == "human")
