"""Knobs: every setting of the tree as one flat list, read off the sections' declarations, with the tables of other words.

Does not know where values come from.
"""

from __future__ import annotations

import tomllib
import types
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from hone.config.run import Run
from hone.config.section import Section

KINDS = {  # section: (flat key, default, {word in YAML: kind in the tree}, help)
    "adapter": (
        "finetuning_type",
        "lora",
        {"lora": "lora", "oft": "oft", "freeze": "freeze", "full": "full"},
        "What is trained: a small adapter beside the frozen model (lora, or oft, which turns what its layers read), some of its "
        "layers (freeze), or every weight (full). "
        "full needs about eight times the memory of the weights.",
    ),
    "objective": (
        "stage",
        "sft",
        {
            "sft": "sft",
            "pt": "pretrain",
            "rm": "reward",
            "dpo": "preference",
            "kto": "kto",
            "ppo": "ppo",
            "grpo": "grpo",
            "distill": "distill",
            "gkd": "gkd",
            "embed": "embed",
            "classify": "classify",
            "rerank": "rerank",
        },
        "What is learned: the answers of conversations (sft), plain text as it stands (pt), to score answers, from pairs of a "
        "better and a worse one (rm), which of two answers is better (dpo), whether an answer is good (kto), the better ones of "
        "the model's own answers, by a reward model's scores (ppo) or by rewards that can be checked (grpo), a larger model's "
        "distribution at each token of the rows' answers (distill) or of the model's own (gkd), vectors of texts, near to each "
        "other where one answers the other (embed), of which class a text is (classify), or how well a text answers a query "
        "(rerank).",
    ),
}

_DRAWN: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_new_tokens": 256}
DEFAULTS_OF_STAGE = {"grpo": _DRAWN, "ppo": _DRAWN, "gkd": _DRAWN}
"""Other defaults where a stage is written: what is learned must be what was drawn, so it is drawn from the whole distribution."""
ADAPTED = ("lora", "oft")
"""Words of finetuning_type that train an adapter beside the model."""
OWN_ANSWERS = tuple(DEFAULTS_OF_STAGE)
"""Stages that learn from answers which the model draws."""
SCORES_TEXTS = ("classify", "rerank")
"""Stages that learn a head which scores whole texts, in the place of the one that gives words."""


@dataclass(frozen=True)
class Knob:
    """One setting. key: its flat name; path: its place in the tree; kinds: of a union section that have it, () for all.

    choices: the words it may be, () where free; lowest and highest: (bound, whether the bound itself is allowed).
    """

    key: str
    path: tuple[str, ...]
    annotation: Any
    default: Any
    help: str
    unit: str = ""
    level: str = "basic"
    example: str = ""
    secret: bool = False
    required: bool = False
    kinds: tuple[str, ...] = ()
    lowest: tuple[float, bool] | None = None
    highest: tuple[float, bool] | None = None

    @property
    def section(self) -> str:
        """Name of the section it belongs to."""
        return self.path[0]

    @property
    def choices(self) -> tuple[Any, ...]:
        """The values allowed, of the list's items where it is a list; () where any is."""
        inner = plain_type(self.annotation)
        if get_origin(inner) is tuple:
            inner = get_args(inner)[0]
        return get_args(inner) if get_origin(inner) is Literal else ()


def plain_type(annotation: Any) -> Any:
    """The annotation without None: `int | None` -> int; a union of several others stays one."""
    if get_origin(annotation) not in (Union, types.UnionType):
        return annotation
    rest = tuple(part for part in get_args(annotation) if part is not type(None))
    return rest[0] if len(rest) == 1 else Union[rest]  # noqa: UP007 (built at run time)


def allows_none(annotation: Any) -> bool:
    """Whether null is one of its values."""
    return type(None) in get_args(annotation)


def sections_of(annotation: Any) -> tuple[type[Section], ...]:
    """The section classes an attribute of Run may hold: several for a union of kinds."""
    parts = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    return tuple(part for part in parts if isinstance(part, type) and issubclass(part, Section))


@cache
def knobs() -> dict[str, Knob]:
    """Every knob by its flat key, in the order of the tree."""
    found: dict[str, Knob] = {}
    for name, field in Run.model_fields.items():
        classes = sections_of(field.annotation)
        if name in KINDS:
            key, default, words, help = KINDS[name]
            found[key] = Knob(key, (name, "kind"), Literal[tuple(words)], default, help)
        for section in classes:
            for knob in _knobs_of(section, (name,), section.model_fields["kind"].default if name in KINDS else ""):
                _add(found, knob)
    return found


def _add(found: dict[str, Knob], knob: Knob) -> None:
    """Add a knob; one that several kinds of a section share is one knob of those kinds."""
    known = found.get(knob.key)
    if known is None:
        found[knob.key] = knob
        return
    assert known.path == knob.path and known.annotation == knob.annotation, f"two knobs are called {knob.key}"
    found[knob.key] = Knob(**{**vars(known), "kinds": known.kinds + knob.kinds})


def _knobs_of(section: type[Section], path: tuple[str, ...], kind: str):
    for name, field in section.model_fields.items():
        if kind and name == "kind":
            continue
        inner = sections_of(field.annotation)
        if inner:
            yield from _knobs_of(inner[0], (*path, name), kind)
        else:
            yield _knob(field, (*path, name), kind)


def _knob(field: FieldInfo, path: tuple[str, ...], kind: str) -> Knob:
    extra = field.json_schema_extra
    assert isinstance(extra, dict) and field.description, f"{'.'.join(path)} is not declared as a knob"
    annotation, within = _without_bounds(field.annotation)
    lowest = highest = None
    for bound in (*field.metadata, *within):
        for word, value in vars_of(bound).items():
            if word in ("gt", "ge"):
                lowest = (value, word == "ge")
            elif word in ("lt", "le"):
                highest = (value, word == "le")
    # An optional part of the tree (quantization) has no default of its own until its first key is written.
    default = None if path[-1] == "bit" and len(path) == 3 else field.default
    required = field.default is PydanticUndefined
    return Knob(
        key=str(extra["flat"]) or path[-1],
        path=path,
        annotation=annotation | None if len(path) == 3 and default is None else annotation,
        default=None if required else default,
        help=field.description,
        unit=str(extra["unit"]),
        level=str(extra["level"]),
        example=str(extra["example"]),
        secret=bool(extra["secret"]),
        required=required,
        kinds=(kind,) if kind else (),
        lowest=lowest,
        highest=highest,
    )


def _without_bounds(annotation: Any) -> tuple[Any, list[Any]]:
    """A union whose number has bounds that a word beside it has not, without them; and the bounds."""
    parts = get_args(annotation)
    bounded = [part for part in parts if get_origin(part) is Annotated]
    if not bounded:
        return annotation, []
    plain = tuple(get_args(part)[0] if part in bounded else part for part in parts)
    return Union[plain], [bound for part in bounded for bound in get_args(part)[1].metadata]  # noqa: UP007 (built at run time)


def vars_of(bound: Any) -> dict[str, Any]:
    """The words of one of pydantic's bounds (Ge, Gt, Le, Lt), which are frozen dataclasses with slots."""
    return {word: getattr(bound, word) for word in ("gt", "ge", "lt", "le") if hasattr(bound, word)}


@dataclass(frozen=True)
class Refused:
    """A key of another house that this version does not honour. default: the value that asks for nothing."""

    key: str
    default: Any
    reason: str
    instead: str

    def __str__(self) -> str:
        return f"{self.reason}; {self.instead}"


@dataclass(frozen=True)
class Unneeded:
    """A key that tunes what hone does otherwise: accepted, and said so."""

    key: str
    default: Any
    why: str


@dataclass(frozen=True)
class Switch:
    """A key that with one value (`when`) means another key's value. notes: other values that need nothing, and why."""

    key: str
    default: Any
    when: Any
    sets: str
    to: Any
    help: str
    notes: dict[str, str]


@dataclass(frozen=True)
class Words:
    """The tables of words that are not knobs, by key."""

    refused: dict[str, Refused]
    refused_values: dict[str, dict[str, str]]
    unneeded: dict[str, Unneeded]
    renamed: dict[str, str]
    renamed_values: dict[str, dict[str, str]]
    switches: dict[str, Switch]


def _table(name: str) -> dict[str, Any]:
    return tomllib.loads((files("hone.config") / name).read_text(encoding="utf-8"))


def _null(value: Any) -> Any:
    return None if value == "null" else value


@cache
def words() -> Words:
    """Read the tables (refused.toml, unneeded.toml, renamed.toml)."""
    refused, unneeded, renamed = _table("refused.toml"), _table("unneeded.toml"), _table("renamed.toml")
    rows = [
        Refused(key, _null(default), group["reason"], group.get("instead_of", {}).get(key, group["instead"]))
        for group in refused["group"]
        for key, default in group["keys"].items()
    ]
    switches = [
        Switch(row["key"], row["default"], row["is"], row["sets"], row["to"], row["help"], row.get("notes", {}))
        for row in renamed["switch"]
    ]
    return Words(
        refused={row.key: row for row in rows},
        refused_values=refused["values"],
        unneeded={key: Unneeded(key, _null(row["default"]), row["why"]) for key, row in unneeded.items()},
        renamed=renamed["keys"],
        renamed_values=renamed["values"],
        switches={switch.key: switch for switch in switches},
    )


def every_key() -> list[str]:
    """Every flat key that is known, honoured or not."""
    tables = words()
    return [*knobs(), *tables.switches, *tables.unneeded, *tables.refused, *tables.renamed]
