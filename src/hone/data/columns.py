"""Columns of a raw row: text, lists, tools and answers read out of it, each refused with its reason where it is wrong.

Does not know the shape of the row, nor what the sample will be used for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from hone.chat.message import Message, Part, Text, Think
from hone.errors import HoneError

_THOUGHT = re.compile(r"\s*<think>(.*?)</think>\s*(.*)", re.DOTALL)


class RowError(HoneError):
    """A row that cannot be used. reason: words shared by all such rows, counted together; detail: what was seen in this one."""

    def __init__(self, reason: str, detail: str = ""):
        self.reason, self.detail = reason, detail
        super().__init__(f"{reason}: {detail}" if detail else reason)


def answer_parts(text: str) -> tuple[Part, ...]:
    """An answer's parts: a <think>...</think> that opens it becomes a Think, so that templates treat it by policy."""
    match = _THOUGHT.fullmatch(text)
    if match is None:
        return (Text(text),)
    thought, rest = match[1].strip("\n"), match[2]
    return (*((Think(thought),) if thought.strip() else ()), *((Text(rest),) if rest else ()))


def read_tools(row: Mapping[str, Any], column: str | None) -> tuple[Mapping[str, Any], ...]:
    """The tools on offer: a list of JSON-schema objects, or that list as JSON text; nothing where the column is empty."""
    value = row.get(column) if column else None
    if isinstance(value, str) and value.strip():
        value = decoded(value, "tools")
    if not value:
        return ()
    if not isinstance(value, list) or not all(isinstance(tool, Mapping) for tool in value):
        raise RowError("tools is not a list of objects", f"seen {json.dumps(value, default=str)[:80]}")
    return tuple(value)


def decoded(text: str, what: str) -> Any:
    """JSON text decoded; RowError where it is broken."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise RowError(f"{what} is not JSON", f"{error}; it reads {text[:60]!r}") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, lists in lists in lists
        raise RowError(f"{what} is more than can be read", f"{type(error).__name__}; it reads {text[:60]!r}") from error


def text_of(row: Mapping[str, Any], column: str | None) -> str:
    """The text of a column, "" where the set has no such column or it is null; RowError where it is something else."""
    value = row.get(column) if column else None
    if value is None:
        return ""
    if not isinstance(value, str):
        raise RowError(f'column "{column}" is not text', f"seen {type(value).__name__}: {str(value)[:60]}")
    return value


def missing_column(row: Mapping[str, Any], part: str, *columns: str | None) -> RowError:
    """The error of a row that has none of `columns`. part: what they hold, in the words of an entry's `columns`."""
    names = " or ".join(f'"{column}"' for column in columns if column)
    seen = ", ".join(map(str, row)) or "nothing"
    return RowError(f"no column {names}", f'the row has {seen}; name it: "columns": {{"{part}": NAME, ...}}')


def list_of(row: Mapping[str, Any], column: str) -> list[Any]:
    """A column that holds a list, or a list as JSON text (as CSV must)."""
    value = row.get(column)
    if isinstance(value, str):
        value = decoded(value, f'column "{column}"')
    if not isinstance(value, list):
        raise RowError(f'column "{column}" is not a list', f"seen {type(value).__name__}")
    return value


def answer(text: str, *, train: bool | None = None) -> Message:
    """An assistant's message of `text`; RowError where there is none."""
    parts = answer_parts(text)
    if not parts or not text.strip():
        raise RowError("empty answer")
    return Message("assistant", parts, train)
