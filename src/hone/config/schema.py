"""Schema: the JSON schema (draft 2020-12) of the flat keys, from which editors complete and check a YAML file.

Does not know how a file is read.
"""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

from hone.config.knobs import Knob, allows_none, knobs, plain_type, words

DRAFT = "https://json-schema.org/draft/2020-12/schema"
_NAMES = {bool: "boolean", int: "integer", float: "number", str: "string", dict: "object"}


def json_schema() -> dict[str, Any]:
    """The schema: honoured keys with type, default, choices and help; the others marked deprecated, with the reason."""
    tables = words()
    properties = {key: _property(knob) for key, knob in knobs().items()}
    for key, switch in tables.switches.items():
        choices = [switch.default, switch.when, *switch.notes]
        kind = {"type": "boolean"} if isinstance(switch.default, bool) else {"enum": choices}
        properties[key] = {"description": switch.help, **kind, "default": switch.default}
    for key, row in tables.unneeded.items():
        properties[key] = {"description": f"Nothing to do in hone: {row.why}.", "default": row.default, "deprecated": True}
    for key, refused in tables.refused.items():
        description = f"Not honoured: {refused.reason}. Instead: {refused.instead}."
        properties[key] = {"description": description, "default": refused.default, "deprecated": True}
    for old, new in tables.renamed.items():
        properties[old] = {**properties[new], "description": f"The old word for {new}.", "deprecated": True}
    return {
        "$schema": DRAFT,
        "title": "hone settings",
        "description": "Flat settings of hone, the keys of LLaMA-Factory: one file for train, check, chat and export.",
        "type": "object",
        "properties": properties,
        "required": [key for key, knob in knobs().items() if knob.required],
        "additionalProperties": False,
    }


def _property(knob: Knob) -> dict[str, Any]:
    shape = _shape(knob.annotation, knob)
    if allows_none(knob.annotation):
        shape = {"anyOf": [shape, {"type": "null"}]}
    unit = f" Unit: {knob.unit}." if knob.unit else ""
    found: dict[str, Any] = {"description": knob.help + unit, **shape}
    if not knob.required:
        found["default"] = list(knob.default) if isinstance(knob.default, tuple) else knob.default
    if knob.example:
        found["examples"] = [knob.example]
    return found


def _shape(annotation: Any, knob: Knob) -> dict[str, Any]:
    """The JSON form of a type; a list may also be one text with commas."""
    inner = plain_type(annotation)
    if get_origin(inner) is Literal:
        return {"enum": list(get_args(inner))}
    if get_origin(inner) is tuple:
        listed = {"type": "array", "items": _shape(get_args(inner)[0], knob)}
        return {"anyOf": [{"type": "string"}, {"type": "null"}, listed]}
    if get_origin(inner) is dict:
        return {"type": "object"}
    if inner not in _NAMES:
        return {"anyOf": [_shape(part, knob) for part in get_args(inner)]}
    return {"type": _NAMES[inner], **(_bounds(knob) if inner in (int, float) else {})}


def _bounds(knob: Knob) -> dict[str, float]:
    found = {}
    if knob.lowest:
        found["minimum" if knob.lowest[1] else "exclusiveMinimum"] = knob.lowest[0]
    if knob.highest:
        found["maximum" if knob.highest[1] else "exclusiveMaximum"] = knob.highest[0]
    return found
