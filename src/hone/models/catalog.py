"""The catalogue: families of models, what each model is called on each hub, and the chat format its family was tuned with.

Imports neither torch nor transformers; does not know whether a template named here is one of ours, and nothing needs it to train.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

from hone.errors import ConfigError, Mistake
from hone.table import nearest

HUBS = {"hf": "Hugging Face", "ms": "ModelScope", "om": "Modelers"}
MEDIA = ("image", "video", "audio")
USERS_FILE = "~/.config/hone/catalog.toml"
"""Groups and models of the user's own, in the form of catalog.toml; read where it is there."""

_GROUP_KEYS = {"template": str, "thinking": bool, "media": list, "models": dict}
_MODEL_KEYS = {**dict.fromkeys(HUBS, str), "billions": (int, float)}
_SIZE = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)([MBT])(\d?)(?![A-Za-z0-9])", re.IGNORECASE)


@dataclass(frozen=True)
class Entry:
    """One model. ids: hub ("hf", "ms", "om") to the model's id there; billions: of weights, None where nobody says."""

    name: str
    ids: Mapping[str, str]
    billions: float | None


@dataclass(frozen=True)
class Group:
    """Models of one family. template: "" where it has none; thinking: its template sets thoughts apart; media: beside text."""

    name: str
    template: str
    thinking: bool
    media: tuple[str, ...]
    models: tuple[Entry, ...]


@dataclass(frozen=True)
class ModelCatalog:
    """`model_catalog().find("Qwen3-8B-Thinking")`; the first of two entries of one name or id counts."""

    groups: tuple[Group, ...]

    def find(self, place: str) -> Entry | None:
        """The model whose name, or id on any hub, is `place`."""
        found = self._exact.get(place.lower())
        return found[1] if found else None

    def family(self, place: str) -> Group | None:
        """The group of a name, of an id, or of a local folder: by what its config.json or its own name says it is.

        An id under another owner, or a folder's name, counts where its last part belongs to models of one template alone.
        """
        for name in _names_of(place):
            if found := self._exact.get(name.lower()):
                return found[0]
            alike = self._by_last_part.get(name.lower().rsplit("/", 1)[-1], ())
            if len({group.template for group in alike}) == 1:
                return alike[0]
        return None

    def search(self, words: Iterable[str]) -> Iterator[Group]:
        """Groups that hold every word in their name or template, or that with the models that do; in the catalogue's order."""
        wanted = [word.lower() for word in words]
        for group in self.groups:
            of_group = f"{group.name} {group.template}".lower()
            rest = [word for word in wanted if word not in of_group]
            kept = tuple(entry for entry in group.models if all(word in _searched(entry) for word in rest))
            if kept:
                yield replace(group, models=kept)

    @cached_property
    def names(self) -> list[str]:
        """Every name of a model or group."""
        return [name for group in self.groups for name in (group.name, *(entry.name for entry in group.models))]

    @cached_property
    def _exact(self) -> dict[str, tuple[Group, Entry]]:
        found: dict[str, tuple[Group, Entry]] = {}
        for group in self.groups:
            for entry in group.models:
                for name in (entry.name, *entry.ids.values()):
                    found.setdefault(name.lower(), (group, entry))
        return found

    @cached_property
    def _by_last_part(self) -> dict[str, list[Group]]:
        found: dict[str, list[Group]] = {}
        for name, (group, _) in self._exact.items():
            found.setdefault(name.rsplit("/", 1)[-1], []).append(group)
        return found


@cache
def model_catalog() -> ModelCatalog:
    """Ours with the user's file, whose groups and models count first. Raises ConfigError with every mistake in that file."""
    ours = read_groups(files("hone.models").joinpath("catalog.toml").read_text(encoding="utf-8"), "catalog.toml")
    path = Path(USERS_FILE).expanduser()
    if not path.is_file():
        return ModelCatalog(tuple(ours))
    return ModelCatalog(tuple(_joined(ours, read_groups(path.read_text(encoding="utf-8"), str(path)))))


def family_template(place: str) -> str:
    """The template of the family that `place` (name, id or folder) belongs to; "" where it has none, or none is known."""
    group = model_catalog().family(place)
    return group.template if group and group.template != "empty" else ""  # empty: no format of its own, so nothing to advise


def read_groups(text: str, where: str) -> list[Group]:
    """The groups of a catalogue's text. Raises ConfigError with every mistake, each with file, group and key."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([Mistake(where, "", f"broken TOML: {error}")]) from error
    mistakes = [Mistake(where, key, message) for key, message in _wrong(data)]
    if mistakes:
        raise ConfigError(mistakes)
    return [_group(name, values) for name, values in data.items()]


def _wrong(data: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for group, values in data.items():
        if not isinstance(values, dict):
            yield group, f'saw {values!r}, wanted a group of models: ["{group}"]'
            continue
        yield from _wrong_keys(group, values, _GROUP_KEYS)
        for word in values.get("media", ()) if isinstance(values.get("media"), list) else ():
            if word not in MEDIA:
                yield f"{group}.media", f"saw {word!r}, wanted some of {', '.join(MEDIA)}"
        models = values.get("models", {})
        for name, entry in models.items() if isinstance(models, dict) else ():
            key = f"{group}.models.{name}"
            if not isinstance(entry, dict):
                yield key, f'saw {entry!r}, wanted its ids: {{ hf = "owner/name" }}'
                continue
            yield from _wrong_keys(key, entry, _MODEL_KEYS)
            if not entry.keys() & HUBS.keys():
                yield key, f"says no id; write one of {', '.join(f'{hub} ({title})' for hub, title in HUBS.items())}"


def _wrong_keys(where: str, values: dict[str, Any], known: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if key not in known:
            yield f"{where}.{key}", f"unknown key{nearest(key, list(known))}; known: {', '.join(known)}"
        elif not isinstance(value, known[key]) or (isinstance(value, bool) and known[key] is not bool):
            kinds = {str: "a text", bool: "true or false", list: "a list", dict: "a table"}
            yield f"{where}.{key}", f"saw {value!r}, wanted {kinds.get(known[key], 'a number')}"


def _group(name: str, values: dict[str, Any]) -> Group:
    models = tuple(_entry(model, entry) for model, entry in values.get("models", {}).items())
    return Group(name, values.get("template", ""), values.get("thinking", False), tuple(values.get("media", ())), models)


def _entry(name: str, values: dict[str, Any]) -> Entry:
    ids = {hub: values[hub] for hub in HUBS if hub in values}
    return Entry(name, ids, values.get("billions", billions_in(name)))


def billions_in(name: str) -> float | None:
    """The first size in a name, in billions: 0.56 of BLOOM-560M, 7.1 of BLOOM-7B1; None where it has none."""
    found = _SIZE.search(name)
    if found is None:
        return None
    number, unit, tenths = found.groups()
    return float(f"{number}.{tenths}" if tenths else number) * {"M": 1e-3, "B": 1.0, "T": 1e3}[unit.upper()]


def _joined(ours: list[Group], theirs: list[Group]) -> Iterator[Group]:
    """The user's groups first; one that is named as ours has our models too, and ours where it says nothing itself."""
    known = {group.name.lower(): group for group in ours}
    for own in theirs:
        group = known.pop(own.name.lower(), own)
        names = {entry.name for entry in own.models}
        rest = tuple(entry for entry in group.models if entry.name not in names)
        yield replace(
            own,
            template=own.template or group.template,
            thinking=own.thinking or group.thinking,
            media=own.media or group.media,
            models=own.models + rest,
        )
    yield from known.values()


def _names_of(place: str) -> Iterator[str]:
    folder = Path(place).expanduser()
    if not folder.is_dir():
        yield place
        return
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = {}  # no config, or none that can be read: whoever needs it says so
    said = config.get("_name_or_path") if isinstance(config, dict) else None
    yield from (name for name in (said, folder.resolve().name) if isinstance(name, str) and name)


def _searched(entry: Entry) -> str:
    return " ".join((entry.name, *entry.ids.values())).lower()
