"""Row: one line of formats/table.toml, a template name with everything that is particular to it.

Does not know how a row is rendered or read.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from hone.errors import TemplateError
from hone.table import nearest

FORMATS = files("hone.chat") / "formats"


def format_text(name: str) -> str:
    """The text of a file of the formats folder."""
    return (FORMATS / name).read_text(encoding="utf-8")


@dataclass(frozen=True)
class Row:
    """One template name. A row with `like` begins as a copy of that row; what the family alone needs stands in its own line.

    format: the Jinja file; system: default system prompt, '' for none; trim: texts lose white space at both ends.
    tokens: control tokens without which a tokenizer does not fit; bos, eos: how the maker's tokenizer spells them, '' for no bos.
    stop: tokens that end an answer; the first one must exist, "eos" stands for the tokenizer's own.
    lead, tail: text the format puts around what an answer says. say_open: words between thought and text, which calls in the
    row's own way stand without.
    thinking: "none"; "answer": the answer itself opens its thought; "prompt": the prompt does; "question": the prompt does,
    but not behind tool results; "never": the prompt says an empty thought, whatever the settings. think_open, think_close:
    words; think_empty: those of an empty thought, where they are not these two together ('': none). empty_thoughts: which
    answers without a thought have an empty one: the "last" of the conversation, all behind the last question ("current"), or
    "all", also those whose thought is left out of the history. after_thought: text between a thought, also an empty one, and
    what is said; none stands before a call that nothing is said before. mute: what ends a question whose answer is asked for
    without a thought.
    dialect: the way of tool calls; tools_in: "system" ends the system prompt with the tools, "format" leaves them to the file.
    asks_last: where tools are on offer the format asks for a call in words before the last answer alone, so that each answer is
    learned as the last one.
    passage_end: token after a pretraining text where it is not the tokenizer's eos.
    media: kind ("image", "video", "audio") to what is written for one: the token that the model's own processor writes many of in
    its place, and the words around it; {number} counts those of its kind.
    official: the maker's template the row is compared with, a file of the makers' templates or a tokenizer's folder beside them
    ("tokenizers/NAME"), or "" where none is at hand;
    official_system: the default system prompt for that comparison, where the file has another; official_opening: what its prompts
    end with and the row's do not.
    differs: a probe's name or trait to the reason why such probes are rendered otherwise than there. note: for the user.
    """

    name: str
    format: str
    system: str = ""
    trim: bool = False
    tokens: tuple[str, ...] = ()
    bos: str = "<|bos|>"
    eos: str = "<|eos|>"
    stop: tuple[str, ...] = ("eos",)
    lead: str = ""
    tail: str = ""
    say_open: str = ""
    thinking: Literal["none", "answer", "prompt", "question", "never"] = "none"
    think_open: str = "<think>\n"
    think_close: str = "\n</think>\n\n"
    think_empty: str | None = None
    after_thought: str = ""
    mute: str = ""
    empty_thoughts: Literal["last", "current", "all"] = "last"
    dialect: str = "default"
    tools_in: Literal["system", "format"] = "system"
    asks_last: bool = False
    passage_end: str = ""
    media: Mapping[str, str] = field(default_factory=dict, hash=False)
    official: str = ""
    official_system: str | None = None
    official_opening: str = ""
    differs: Mapping[str, str] = field(default_factory=dict, hash=False)
    note: str = ""


@cache
def rows() -> dict[str, Row]:
    """Every template name and its row."""
    data = tomllib.loads(format_text("table.toml"))
    return {name: _row(name, _whole(name, data)) for name in data}


def find(name: str) -> Row:
    """The row of `name`; raises TemplateError with the nearest name, or the list where none is near."""
    known = rows()
    if name not in known:
        hint = nearest(name, list(known)) or f"; known: {', '.join(sorted(known))}"
        raise TemplateError(f'unknown template "{name}"{hint}')
    return known[name]


def _whole(name: str, data: Mapping[str, Any]) -> dict[str, Any]:
    own = dict(data[name])
    like = own.pop("like", "")
    # What was compared, and what was found, is each row's own.
    kept = {key: value for key, value in _whole(like, data).items() if key not in _NOT_COPIED} if like else {}
    return kept | own


_NOT_COPIED = ("official", "official_system", "official_opening", "differs", "note")


def _row(name: str, values: Mapping[str, Any]) -> Row:
    unknown = set(values) - {field.name for field in fields(Row)}
    assert not unknown, f"table.toml, row {name}: unknown {unknown}"
    return Row(name=name, **{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})
