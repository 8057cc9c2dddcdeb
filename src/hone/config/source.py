"""Source: the settings as they were written, each value with its file and line, read from YAML, JSON or the command line.

Does not know which settings exist.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from hone.errors import Mistake

COMMAND_LINE = "command line"


@dataclass(frozen=True)
class Value:
    """One value. data: what YAML makes of it; text: how a single value was written, None for lists and mappings of a file;

    where: "run.yaml:12" or "command line"; children: the values of a mapping, by name; alone: an option without a value, which
    stands for true.
    """

    data: Any
    text: str | None
    where: str
    children: Mapping[str, Value] = field(default_factory=dict)
    alone: bool = False


@dataclass(frozen=True)
class Item:
    """A key and its value, in the order they were written."""

    key: str
    value: Value


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as everyone writes it, without its traps: 1e-4 is a number; 12:30, 010 and 2024-01-01 are not another one."""


_PLAIN_TAGS = ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:null", "tag:yaml.org,2002:merge", "tag:yaml.org,2002:value")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rows if tag in _PLAIN_TAGS]
    for first, rows in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_INT = re.compile(r"[-+]?[0-9][0-9_]*$|0x[0-9a-fA-F]+$")
_FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|[0-9][0-9_]*\.[0-9]*|[0-9][0-9_]*(?=[eE]))([eE][-+]?[0-9]+)?$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$"
)


def _whole(loader: _Loader, node: yaml.ScalarNode) -> int | str:
    text = node.value.replace("_", "")
    try:
        return int(text, 16) if text.startswith("0x") else int(text)
    except ValueError:  # thousands of digits, or an explicit !!int tag on something else
        return node.value


def _fraction(loader: _Loader, node: yaml.ScalarNode) -> float | str:
    text = node.value.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan")
    try:
        return float(text)
    except ValueError:
        return node.value


_Loader.add_implicit_resolver("tag:yaml.org,2002:int", _INT, list("-+0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
_Loader.add_constructor("tag:yaml.org,2002:int", _whole)
_Loader.add_constructor("tag:yaml.org,2002:float", _fraction)
for _tag in ("binary", "timestamp", "omap", "pairs", "set"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", yaml.SafeLoader.construct_undefined)


def read_file(path: Path) -> tuple[list[Item], list[Mistake]]:
    """Everything in a YAML or JSON file (JSON where the name ends so), and what is wrong with it as a file."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return [], [Mistake(str(path), "", "there is no such file")]
    except IsADirectoryError:
        return [], [Mistake(str(path), "", "this is a folder; name the YAML or JSON file in it")]
    except UnicodeDecodeError as error:
        return [], [Mistake(str(path), "", f"this is not a text file: byte {error.start} is not UTF-8")]
    except OSError as error:
        return [], [Mistake(str(path), "", f"the file cannot be read: {error.strerror}")]
    read = _read_json if path.suffix.lower() == ".json" else _read_yaml
    try:
        return read(text, str(path))
    except RecursionError:
        return [], [Mistake(str(path), "", "lists or mappings are nested too deep")]


def _read_yaml(text: str, name: str) -> tuple[list[Item], list[Mistake]]:
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return [], []
        if not isinstance(node, yaml.MappingNode):
            return [], [Mistake(f"{name}:{node.start_mark.line + 1}", "", _NO_MAPPING)]
        mistakes = list(_duplicates(node, name, set()))
        loader.flatten_mapping(node)
        return _items(loader, node, name), mistakes
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        return [], [Mistake(f"{name}:{line}", "", f"a character that YAML forbids (code {error.character})")]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{name}:{mark.line + 1}" if mark else name
        return [], [Mistake(place, "", f"this is not YAML: {error.problem or error.context}")]
    finally:
        if loader is not None:
            loader.dispose()


_NO_MAPPING = 'saw a list or a bare text where settings are wanted; write one "key: value" a line'


def _items(loader: _Loader, node: yaml.MappingNode, name: str) -> list[Item]:
    """The settings of a mapping; a key that came in by a merge (<<) gives way to the same key written out."""
    found: dict[str, Value] = {}
    for key_node, value_node in node.value:
        found[_key_text(loader, key_node)] = _value(loader, value_node, name, key_node.start_mark.line + 1)
    return [Item(key, value) for key, value in found.items()]


def _key_text(loader: _Loader, node: yaml.Node) -> str:
    return node.value if isinstance(node, yaml.ScalarNode) else str(loader.construct_object(node, deep=True))


def _value(loader: _Loader, node: yaml.Node, name: str, line: int) -> Value:
    where = f"{name}:{line}"
    if isinstance(node, yaml.MappingNode):
        data = loader.construct_object(node, deep=True)
        if not isinstance(data, dict):  # an explicit tag such as !!set made something else of it
            return Value(data, None, where)
        children = {_key_text(loader, key): _value(loader, value, name, key.start_mark.line + 1) for key, value in node.value}
        return Value(data, None, where, children)
    text = node.value if isinstance(node, yaml.ScalarNode) else None
    return Value(loader.construct_object(node, deep=True), text, where)


def _duplicates(node: yaml.Node, name: str, seen: set[int]):
    """A mistake for each key that stands twice in one mapping: YAML would silently take the last."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        lines: dict[Hashable, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode) and key.value in lines and key.value != "<<":
                message = f"this key stands twice, first in line {lines[key.value]}; remove one"
                yield Mistake(f"{name}:{line}", str(key.value), message)
            lines.setdefault(key.value if isinstance(key, yaml.ScalarNode) else id(key), line)
            yield from _duplicates(value, name, seen)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _duplicates(value, name, seen)


def _read_json(text: str, name: str) -> tuple[list[Item], list[Mistake]]:
    twice: list[str] = []

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in found]
        twice.extend(key for key in set(keys) if keys.count(key) > 1)
        return dict(found)

    if not text.strip():
        return [], []
    try:
        data = json.loads(text, object_pairs_hook=pairs)
    except json.JSONDecodeError as error:
        return [], [Mistake(f"{name}:{error.lineno}", "", f"this is not JSON: {error.msg} at column {error.colno}")]
    except ValueError as error:  # a number of thousands of digits
        return [], [Mistake(name, "", f"this is not JSON: {error}")]
    if not isinstance(data, dict):
        return [], [Mistake(f"{name}:1", "", 'saw no object where settings are wanted; write {"key": value, ...}')]
    lines = _json_lines(text)
    mistakes = [Mistake(f"{name}:{lines.get((key,), 1)}", key, "this key stands twice; remove one") for key in twice]
    return [Item(key, _json_value(value, name, lines, (key,))) for key, value in data.items()], mistakes


def _json_value(data: Any, name: str, lines: dict[tuple[str, ...], int], path: tuple[str, ...]) -> Value:
    where = f"{name}:{lines.get(path, 1)}"
    if isinstance(data, dict):
        children = {key: _json_value(value, name, lines, (*path, key)) for key, value in data.items()}
        return Value(data, None, where, children)
    text = None if isinstance(data, list) else data if isinstance(data, str) else json.dumps(data)
    return Value(data, text, where)


_JSON_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"(\s*:)?|[{}\[\]]')


def _json_lines(text: str) -> dict[tuple[str, ...], int]:
    """The line of every key of valid JSON, by its path; keys inside lists are left out."""
    lines: dict[tuple[str, ...], int] = {}
    path: list[str] = []
    key, lists = "", 0
    for token in _JSON_TOKEN.finditer(text):
        mark = token.group()[0]
        if mark == '"' and token.group(1) and not lists:
            key = json.loads(token.group()[: token.group().rindex('"') + 1])
            lines[(*path[1:], key)] = text.count("\n", 0, token.start()) + 1
        elif mark == "[":
            lists += 1
        elif mark == "]":
            lists -= 1
        elif mark == "{" and not lists:
            path.append(key)
        elif mark == "}" and not lists:
            path.pop()
    return lines


def read_word(text: str) -> Value:
    """A value from the command line: YAML where it is YAML, else the text as it stands."""
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return Value(None, text, COMMAND_LINE)
        if isinstance(node, yaml.MappingNode) and not text.lstrip().startswith("{"):
            return Value(text, text, COMMAND_LINE)  # "Hello: you" is a sentence here
        if isinstance(node, yaml.ScalarNode) and node.style is None:
            data = loader.construct_object(node)
            return Value(text if isinstance(data, str) else data, text, COMMAND_LINE)  # a "#" begins no comment here
        value = _value(loader, node, "", 0)
        return Value(value.data, value.text if value.text is not None else text, COMMAND_LINE, value.children)
    except (yaml.YAMLError, RecursionError):
        return Value(text, text, COMMAND_LINE)
    finally:
        if loader is not None:
            loader.dispose()
