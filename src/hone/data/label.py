"""Rows that say of what kind a text is, or how much of something it has.

Does not know what kinds there are, nor what is made of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hone.data.alpaca import user_text
from hone.data.catalog import DatasetSpec
from hone.data.columns import RowError, missing_column
from hone.data.sample import Labelled


def labelled(row: Mapping[str, Any], spec: DatasetSpec) -> Labelled:
    """`{"text": "Never again.", "label": "bad"}`, with the entry's own names; a label is text, a number, or true or false."""
    text, column = user_text(row, spec), spec.columns.label
    assert column is not None, "checked before rows are read"
    if column not in row:
        raise missing_column(row, "label", column)
    label = row[column]
    if not text.strip():
        raise RowError("empty text")
    if label is None or (isinstance(label, str) and not label.strip()):
        raise RowError("no label", f'column "{column}" is empty')
    if not isinstance(label, str | int | float):
        raise RowError(f'column "{column}" is no label', f"seen {type(label).__name__}: {str(label)[:60]}")
    return Labelled(text, label)
