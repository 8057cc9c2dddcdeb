"""Convert: one written value into the type of its knob, or the words that say what was wanted.

Does not know the other settings.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

from hone.config.knobs import Knob, allows_none, plain_type, words
from hone.config.source import Value
from hone.table import nearest

TRUE, FALSE = ("true", "yes", "on", "y", "1"), ("false", "no", "off", "n", "0")


class Wrong(Exception):
    """A value that does not fit; its text says what was wanted."""


def convert(knob: Knob, value: Value) -> Any:
    """`value` as the knob's type; raises Wrong with what was seen and wanted."""
    refused = words().refused_values.get(knob.key, {})
    seen = "" if value.data is None else str(value.text if value.text is not None else value.data).strip()
    if seen in refused:
        raise Wrong(refused[seen])
    renamed = words().renamed_values.get(knob.key, {})
    if seen.lower() in renamed:
        value = Value(renamed[seen.lower()], renamed[seen.lower()], value.where)
    return _fit(knob, value)


def _fit(knob: Knob, value: Value) -> Any:
    if value.data is None:
        if allows_none(knob.annotation):
            return None
        if get_origin(knob.annotation) is tuple:
            return ()
        raise Wrong(f"saw nothing, wanted {wanted(knob)}{_otherwise(knob)}")
    inner = plain_type(knob.annotation)
    if value.alone and bool not in (inner, *get_args(inner)):
        raise Wrong(f"saw no value after it, wanted {wanted(knob)}")
    try:
        result = _as(inner, value)
    except (ValueError, OverflowError, TypeError):
        raise Wrong(f"saw {shown(value)}, wanted {wanted(knob)}{_near(knob, value)}") from None
    if isinstance(result, tuple):
        result = _list(knob, result)
    _check_bounds(knob, result, value)
    return result


def _otherwise(knob: Knob) -> str:
    return "" if knob.required else "; remove the line for the default"


def shown(value: Value) -> str:
    """The value as it was written, short enough for a message."""
    if isinstance(value.data, str):
        text = f'"{value.data}"'
    elif value.text is not None:
        text = value.text
    else:
        text = ("a mapping " if isinstance(value.data, Mapping) else "a list ") + str(value.data)
    return text if len(text) <= 80 else text[:77] + "..."


def _as(kind: Any, value: Value) -> Any:
    """The value as `kind`; raises ValueError, TypeError or OverflowError where it is not one."""
    if get_origin(kind) is Literal:
        return _choice(get_args(kind), value)
    if get_origin(kind) is tuple:
        return _items(value)
    if get_origin(kind) is dict or kind is dict:
        return _mapping(value)
    if kind in (bool, int, float, str):
        return {bool: _bool, int: _int, float: _float, str: _str}[kind](value)
    for part in sorted(get_args(kind), key=lambda part: part is str):  # a union: text last, as everything is text
        try:
            return _as(part, value)
        except (ValueError, TypeError, OverflowError):
            continue
    raise ValueError


def _choice(choices: tuple[Any, ...], value: Value) -> Any:
    text = _str(value).strip()
    for choice in choices:
        if str(choice) == text or (isinstance(choice, str) and choice.lower() == text.lower()):
            return choice
        if isinstance(choice, int) and not isinstance(value.data, bool) and text and _int(value) == choice:
            return choice
    if "no" in choices and isinstance(value.data, bool) and not value.data:
        return "no"  # YAML reads a bare `no` or `off` as false
    raise ValueError


def _bool(value: Value) -> bool:
    text = _str(value).strip().lower()
    if text in TRUE or text in FALSE:
        return text in TRUE
    raise ValueError


def _int(value: Value) -> int:
    if isinstance(value.data, bool):
        raise ValueError
    if isinstance(value.data, int):
        return value.data
    number = _float(value)
    if not number.is_integer():
        raise ValueError
    return int(number)


def _float(value: Value) -> float:
    if isinstance(value.data, (bool, list, dict)):
        raise ValueError
    number = float(value.data)
    if not math.isfinite(number):
        raise ValueError
    return number


def _str(value: Value) -> str:
    if value.text is None:
        raise ValueError
    return value.text


def _items(value: Value) -> tuple[Any, ...]:
    """A list, or one text with commas; empty parts are left out."""
    whole = value.data if isinstance(value.data, list) else [part.strip() for part in _str(value).split(",")]
    parts = [Value(part, _plain(part), value.where) for part in whole]
    return tuple(part for part in parts if part.text != "")


def _plain(part: Any) -> str | None:
    return None if isinstance(part, (list, dict)) or part is None else str(part)


def _list(knob: Knob, parts: tuple[Value, ...]) -> tuple[Any, ...]:
    """The items of a list knob, each as the list's type; `none` stands for no item at all."""
    kind = get_args(plain_type(knob.annotation))[0]
    if [str(part.text).lower() for part in parts] in (["none"], ["null"]):
        return ()
    refused = words().refused_values.get(knob.key, {})
    result = []
    for part in parts:
        if part.text in refused:
            raise Wrong(refused[part.text])
        try:
            result.append(_as(kind, part))
        except (ValueError, TypeError, OverflowError):
            raise Wrong(f"saw {shown(part)} in the list, wanted {wanted(knob)}{_near(knob, part)}") from None
    return tuple(result)


def _mapping(value: Value) -> dict[str, Any]:
    if isinstance(value.data, dict):
        return {str(key): part for key, part in value.data.items()}
    data = json.loads(_str(value))
    if not isinstance(data, dict):
        raise ValueError
    return data


def _check_bounds(knob: Knob, result: Any, value: Value) -> None:
    numbers = result if isinstance(result, tuple) else (result,)
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            continue
        low = knob.lowest is None or number > knob.lowest[0] or (knob.lowest[1] and number == knob.lowest[0])
        high = knob.highest is None or number < knob.highest[0] or (knob.highest[1] and number == knob.highest[0])
        if not (low and high):
            raise Wrong(f"saw {shown(value)}, wanted {wanted(knob)}")


def _near(knob: Knob, value: Value) -> str:
    if not knob.choices or value.text is None:
        return ""
    return nearest(value.text, [str(choice) for choice in knob.choices])


def wanted(knob: Knob) -> str:
    """What the knob takes, in words: "a whole number above 0", "one of no, steps, epoch"."""
    inner = plain_type(knob.annotation)
    if knob.choices:
        names = ", ".join(str(choice) for choice in knob.choices)
        return f"a list of {names}" if get_origin(inner) is tuple else f"one of {names}"
    text = _noun(inner)
    if knob.lowest and knob.lowest[0] != -1:
        text += f", {knob.lowest[0]:g} or more" if knob.lowest[1] else f" above {knob.lowest[0]:g}"
    elif knob.lowest:
        text += ", -1 or more"
    if knob.highest:
        text += f", {knob.highest[0]:g} or less" if knob.highest[1] else f" and below {knob.highest[0]:g}"
    return text


def _noun(kind: Any) -> str:
    if get_origin(kind) is tuple:
        return (
            "numbers with commas between them"
            if get_args(kind)[0] in (int, float)
            else "names with commas between them, or a list"
        )
    nouns = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", dict: "a mapping"}
    if get_origin(kind) is dict:
        return "a mapping"
    if get_origin(kind) is Literal:
        return " or ".join(map(str, get_args(kind)))
    return nouns[kind] if kind in nouns else " or ".join(_noun(part) for part in get_args(kind))
