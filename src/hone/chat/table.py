"""Row: one line of formats/table.toml, a template name with everything that is particular to it.

Does not know how a row is rendered or read.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from functools import cache
from importlib.resources import files
from typing import Literal

from hone.errors import TemplateError
from hone.table import nearest

FORMATS = files("hone.chat") / "formats"


def format_text(name: str) -> str:
    """The text of a file of the formats folder."""
    return (FORMATS / name).read_text(encoding="utf-8")


@dataclass(frozen=True)
class Row:
    """format: the Jinja file; system: default system prompt, '' for none; trim: texts lose white space at both ends.

    tokens: control tokens without which a tokenizer does not fit; stop: tokens that end an answer, the first one must exist,
    "eos" stands for the tokenizer's own; lead, tail: text the format puts around what an answer says.
    thinking: "none"; "answer": the answer itself opens its thought; "prompt": the prompt does. think_open, think_close: words.
    dialect: the way of tool calls; tools_in: "system" ends the system prompt with the tools, "format" leaves them to the file.
    passage_end: token after a pretraining text where it is not the tokenizer's eos. official: what the row was compared with.
    """

    name: str
    format: str
    system: str = ""
    trim: bool = False
    tokens: tuple[str, ...] = ()
    stop: tuple[str, ...] = ("eos",)
    lead: str = ""
    tail: str = ""
    thinking: Literal["none", "answer", "prompt"] = "none"
    think_open: str = "<think>\n"
    think_close: str = "\n</think>\n\n"
    dialect: str = "default"
    tools_in: Literal["system", "format"] = "system"
    passage_end: str = ""
    official: str = ""


@cache
def rows() -> dict[str, Row]:
    """Every template name and its row."""
    data = tomllib.loads((FORMATS / "table.toml").read_text(encoding="utf-8"))
    return {name: _row(name, values) for name, values in data.items()}


def find(name: str) -> Row:
    """The row of `name`; raises TemplateError with the nearest name and the list."""
    known = rows()
    if name not in known:
        raise TemplateError(f'unknown template "{name}"{nearest(name, list(known))}; known: {", ".join(sorted(known))}')
    return known[name]


def _row(name: str, values: dict) -> Row:
    unknown = set(values) - {field.name for field in fields(Row)}
    assert not unknown, f"table.toml, row {name}: unknown {unknown}"
    return Row(name=name, **{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})
