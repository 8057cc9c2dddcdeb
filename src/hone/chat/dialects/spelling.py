"""JSON as the makers spell it: names and arguments written and read.

Knows no dialect: they put the words around it.
"""

from __future__ import annotations

import json
from typing import Any

from hone.chat.marks import Ink
from hone.chat.message import ToolCall

_DECODER = json.JSONDecoder()


def dumps(value: Any) -> str:
    """JSON as Hugging Face's templates write it."""
    return json.dumps(value, ensure_ascii=False)


def spelled_name(call: ToolCall, ink: Ink) -> str:
    """The call's name as it stands inside a JSON string."""
    return ink.content(dumps(call.name)[1:-1])


def read_name(name: str) -> str:
    """The name that `spelled_name` wrote."""
    try:
        return json.loads(f'"{name}"')
    except json.JSONDecodeError:
        return name


def spelled_arguments(call: ToolCall, ink: Ink) -> str:
    """The call's arguments as a JSON object."""
    return ink.content(dumps(dict(call.arguments)))


def call_of(value: Any, keys: tuple[str, ...] = ("arguments", "parameters")) -> ToolCall | None:
    """The call a decoded JSON value says, or None."""
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not value["name"]:
        return None
    arguments = next((value[key] for key in keys if key in value), {})
    identity = value.get("id", "")
    return (
        ToolCall(value["name"], arguments, identity if isinstance(identity, str) else "") if isinstance(arguments, dict) else None
    )


def json_at(text: str, start: int) -> tuple[Any, int]:
    """The JSON value that starts at `start` (white space before it allowed) and where it ends; (None, start) for none."""
    while start < len(text) and text[start].isspace():
        start += 1
    try:
        return _DECODER.raw_decode(text, start)
    except (json.JSONDecodeError, RecursionError):
        return None, start
