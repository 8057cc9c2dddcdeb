"""Rows that say which texts belong to a query: one or several that answer it, and perhaps some that do not.

Does not know templates, files, or what is made of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hone.data.alpaca import user_text
from hone.data.catalog import DatasetSpec
from hone.data.columns import RowError, missing_column
from hone.data.sample import Match


def match(row: Mapping[str, Any], spec: DatasetSpec) -> Match:
    """`{"query": "Capital of France?", "positive": "Paris is ...", "negative": ["Lyon is ..."]}`, with the entry's own names."""
    query, column = user_text(row, spec), spec.columns.positive
    assert column is not None, "checked before rows are read"
    if column not in row:
        raise missing_column(row, "positive", column)
    positives, negatives = _texts(row, column), _texts(row, spec.columns.negative)
    if not query.strip():
        raise RowError("empty query")
    if not positives:
        raise RowError("no text that answers the query", f'column "{column}" is empty')
    if both := set(positives) & set(negatives):
        raise RowError("a text is positive and negative", f"it reads {min(both)[:60]!r}")
    return Match(query, positives, negatives)


def _texts(row: Mapping[str, Any], column: str | None) -> tuple[str, ...]:
    value = row.get(column) if column else None
    texts = [] if value is None else value if isinstance(value, list) else [value]
    for text in texts:
        if not isinstance(text, str) or not text.strip():
            raise RowError(f'column "{column}" is not text, nor a list of texts', f"seen {str(text)[:60]!r}")
    return tuple(texts)
