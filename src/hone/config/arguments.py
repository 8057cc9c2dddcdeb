"""Arguments: the words after the verb, told apart into one file and overrides (key=value, --key value, --key=value).

Does not know which settings exist.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from hone.config.source import COMMAND_LINE, Item, Value, read_word
from hone.errors import Mistake

_ASSIGNMENT = re.compile(r"([A-Za-z_][\w.-]*)=(.*)", re.DOTALL)


@dataclass(frozen=True)
class Arguments:
    """file: path of the settings, "" for none; overrides in the order they were written; mistakes of the words themselves."""

    file: str
    overrides: tuple[Item, ...]
    mistakes: tuple[Mistake, ...]


def read_arguments(words: list[str]) -> Arguments:
    """Tell apart the words; `--key` alone means true, `--key a b` means the list of both."""
    file, overrides, mistakes = "", [], []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        assignment = _ASSIGNMENT.fullmatch(word.removeprefix("--"))
        if assignment:
            overrides.append(Item(_key(assignment[1]), read_word(assignment[2])))
        elif word.startswith("--") and len(word) > 2:
            values = []
            while rest and not rest[0].startswith("--") and not _ASSIGNMENT.fullmatch(rest[0]):
                values.append(rest.pop(0))
            overrides.append(Item(_key(word[2:]), _joined(values)))
        elif word.startswith("-"):
            mistakes.append(Mistake(COMMAND_LINE, word, "unknown option; settings are written key=value or --key value"))
        elif not word:
            mistakes.append(Mistake(COMMAND_LINE, "", "an empty word; remove it"))
        elif file:
            message = f"a second file; one is read, {file}. Write settings as key=value"
            mistakes.append(Mistake(COMMAND_LINE, word, message))
        else:
            file = word
    return Arguments(file, tuple(overrides), (*mistakes, *_twice(overrides)))


def _twice(overrides: list[Item]) -> list[Mistake]:
    """A mistake for each key that is given two values: the last would silently be taken."""
    first: dict[str, Value] = {}
    mistakes = []
    for item in overrides:
        before = first.setdefault(item.key, item.value)
        if before.data != item.value.data:
            message = f"this key stands twice, with {before.text} and {item.value.text}; remove one"
            mistakes.append(Mistake(COMMAND_LINE, item.key, message))
    return mistakes


def _key(word: str) -> str:
    return word.replace("-", "_")


def _joined(values: list[str]) -> Value:
    if not values:
        return Value(True, "true", COMMAND_LINE, alone=True)
    if len(values) == 1:
        return read_word(values[0])
    return Value([read_word(value).data for value in values], " ".join(values), COMMAND_LINE)
