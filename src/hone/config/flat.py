"""Flat: LLaMA-Factory's flat keys, or the typed tree's own, become a Run; every mistake is reported at once.

Does not know what a setting does; the rules between settings stand in `rules`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_origin

from hone import log
from hone.config.accelerate_file import Sharded
from hone.config.arguments import read_arguments
from hone.config.convert import Wrong, convert, shown
from hone.config.environment import Environment, read_environment
from hone.config.knobs import DEFAULTS_OF_STAGE, KINDS, Knob, Switch, every_key, knobs, plain_type, words
from hone.config.rules import broken_rules, notes_of, verb_of
from hone.config.run import Run
from hone.config.settings import Given, Settings
from hone.config.source import Item, Value, read_file
from hone.config.zero import opened
from hone.errors import ConfigError, Mistake
from hone.table import nearest


@dataclass(frozen=True)
class Loaded:
    """run: the settings; notes: lines about keys that change nothing here; written: paths in the tree that were set.

    verb: the command they were read for.
    """

    run: Run
    notes: tuple[str, ...]
    written: frozenset[tuple[str, ...]] = frozenset()
    verb: str = "train"


def load(arguments: list[str], verb: str) -> Run:
    """The settings of one YAML or JSON file (or none) and `key=value` overrides; prints what was noticed on the way.

    verb: the command they are for, which decides what must be there.  Raises ConfigError with every mistake at once.
    """
    return _told_of(read(arguments, verb)).run


def load_for_use(arguments: list[str]) -> tuple[Run, str]:
    """As `load`, and the command that the settings are written for, as far as they tell: train, export, api or chat."""
    loaded = _told_of(read(arguments, "check"))
    return loaded.run, loaded.verb


def _told_of(loaded: Loaded) -> Loaded:
    environment, _ = read_environment()
    if not environment.launched:  # a process that torchrun started repeats what its parent said
        for note in loaded.notes:
            log.info(f"note: {note}")
    return loaded


def read(arguments: list[str], verb: str) -> Loaded:
    """As `load`, and says nothing: the notes come back with the tree."""
    words_given = read_arguments(arguments)
    items, mistakes = read_file(Path(words_given.file)) if words_given.file else ([], [])
    environment, wrong = read_environment()
    if mistakes and not items:
        raise _told([*words_given.mistakes, *mistakes, *wrong])
    reading = _Reading(environment, mistakes=[*words_given.mistakes, *mistakes, *wrong])
    reading.take(items, rank=0)
    reading.take(list(words_given.overrides), rank=1)
    alone = _Reading(environment, mistakes=[])
    alone.take(items, rank=0)
    file_settings = alone.settings()
    settings = reading.settings()
    verb = verb_of(settings) if verb == "check" else verb
    _fill_in(settings, verb)
    _open_deepspeed(settings, reading)
    if environment.use_ray and verb == "train":
        settings.given.setdefault("use_ray", Given(True, "environment", "USE_RAY", 0))
    sharded = Sharded(settings)
    sharded.take(environment.sharding)
    reading.mistakes += sharded.mistakes
    reading.mistakes += broken_rules(settings, verb, alone=file_settings, file=words_given.file, unfit=reading.unfit)
    if reading.mistakes:
        raise _told(sorted(reading.mistakes, key=_line))
    written = frozenset(knobs()[key].path for key in settings.given)
    return Loaded(settings.build(), (*reading.notes, *sharded.notes, *notes_of(settings, file_settings)), written, verb)


def _told(mistakes: list[Mistake]) -> ConfigError:
    """The error, each mistake on one line whatever stands in the file."""
    return ConfigError([Mistake(*(_printable(part) for part in vars(mistake).values())) for mistake in mistakes])


def _line(mistake: Mistake) -> tuple[bool, int]:
    """Places without a line (the command line, missing keys) come last."""
    line = mistake.where.rpartition(":")[2]
    return (not line.isdecimal(), int(line) if line.isdecimal() else 0)


def _fill_in(settings: Settings, verb: str) -> None:
    """What follows from what was written: `hone train` trains, new tokens need room, and a stage may have defaults of its own."""
    if verb == "train" and not {"do_train", "do_eval", "do_predict"} & set(settings.given):
        settings.given["do_train"] = Given(True, f"hone {verb}", "do_train", 0)
    for key in ("add_tokens", "add_special_tokens"):
        if settings.asks(key):
            settings.given["resize_vocab"] = Given(True, settings.where(key), key, 0)
    for key, value in DEFAULTS_OF_STAGE.get(settings["stage"], {}).items():
        settings.given.setdefault(key, Given(value, f"stage: {settings['stage']}", key, 0))


def _open_deepspeed(settings: Settings, reading: _Reading) -> None:
    """What stands in DeepSpeed's file becomes a part of the settings, so that the run's own copy of them says everything."""
    given = settings.given.get("deepspeed")
    if given is None or not given.value:
        return
    try:
        settings.given["deepspeed"] = replace(given, value=opened(given.value))
    except ValueError as problem:
        del settings.given["deepspeed"]
        reading.unfit.add("deepspeed")
        reading.mistakes.append(Mistake(given.where, given.written, str(problem)))


@dataclass(frozen=True)
class _Raw:
    """A value under its present-day key, before it is fitted. written: the key in the source."""

    value: Value
    written: str
    rank: int


@dataclass
class _Reading:
    """What has been gathered so far; later sources replace earlier ones key by key."""

    environment: Environment
    mistakes: list[Mistake]
    notes: list[str] = field(default_factory=list)
    raw: dict[str, _Raw] = field(default_factory=dict)
    unfit: set[str] = field(default_factory=set)

    def take(self, items: list[Item], *, rank: int) -> None:
        """Add one source's items under their present-day keys."""
        for item in items:
            for key, written, value in self._flatten(item):
                before = self.raw.get(key)
                if before and before.rank == rank == 0 and before.value.data != value.data:
                    message = f"another word for {before.written} ({before.value.where}), with another value; remove one"
                    self._wrong(written, value, message)
                self.raw[key] = _Raw(value, written, rank)

    def _flatten(self, item: Item) -> Iterator[tuple[str, str, Value]]:
        """(present-day flat key, key as written, value) of an item: sections and dotted keys are opened."""
        head, _, rest = item.key.partition(".")
        if head in Run.model_fields and rest:
            yield from self._in_section((head, *rest.split(".")), item.value)
        elif item.key in Run.model_fields and (item.value.data is None or isinstance(item.value.data, dict)):
            for name, value in item.value.children.items():
                yield from self._in_section((item.key, name), value)
        elif rest and head in knobs() and _is_mapping(knobs()[head]):
            before = self.raw[head].value.data if head in self.raw else knobs()[head].default
            merged = _merged(before if isinstance(before, dict) else {}, rest.split("."), item.value.data)
            yield head, item.key, Value(merged, None, item.value.where)
        else:
            yield words().renamed.get(item.key, item.key), item.key, item.value

    def _in_section(self, path: tuple[str, ...], value: Value) -> Iterator[tuple[str, str, Value]]:
        """A value at a path of the tree."""
        written = ".".join(path)
        by_path = {knob.path: knob for knob in knobs().values()}
        if path in by_path:
            knob = by_path[path]
            if knob.path[-1] == "kind" and knob.section in KINDS:
                value = _flat_word(knob, value)
            yield knob.key, written, value
        elif any(known[: len(path)] == path for known in by_path):
            yield from self._in_part(path, value)
        else:
            near = nearest(written, [".".join(known) for known in by_path])
            self._wrong(written, value, f"unknown setting{near}; `hone help {path[0]}` lists this section's")

    def _in_part(self, path: tuple[str, ...], value: Value) -> Iterator[tuple[str, str, Value]]:
        """An optional part of a section, such as model.quantization; null there is null for its first key."""
        written = ".".join(path)
        if value.data is None:
            first = next(knob for knob in knobs().values() if knob.path[: len(path)] == path)
            yield first.key, written, value
        elif not isinstance(value.data, dict):
            self._wrong(written, value, f"saw {shown(value)}, wanted a mapping; `hone help {path[0]}` lists what it may hold")
        for name, child in value.children.items():
            yield from self._in_section((*path, name), child)

    def _wrong(self, key: str, value: Value, message: str) -> None:
        self.mistakes.append(Mistake(value.where, key, message))

    def settings(self) -> Settings:
        """Fit every value to its knob; refuse, explain or translate the keys that are not knobs."""
        settings = Settings()
        for key, raw in sorted(self.raw.items(), key=lambda row: row[1].rank):
            if key in knobs():
                self._set(settings, knobs()[key], raw.value, raw)
            elif key in words().switches:
                self._switch(settings, words().switches[key], raw)
            elif key in words().unneeded:
                row = words().unneeded[key]
                if not _same(raw.value, row.default):
                    self.notes.append(f"{raw.written} has nothing to do here: {row.why}")
            elif key in words().refused:
                row = words().refused[key]
                if raw.value.data is not None and not _same(raw.value, row.default) and not _empty(raw.value, row.default):
                    self._wrong(raw.written, raw.value, str(row))
            else:
                self._unknown(key, raw)
        return settings

    def _set(self, settings: Settings, knob: Knob, value: Value, raw: _Raw) -> None:
        try:
            fitted = convert(knob, value)
        except Wrong as wrong:
            self.unfit.add(knob.key)
            self._wrong(raw.written, raw.value, str(wrong))
            return
        before = settings.given.get(knob.key)
        if before and get_origin(plain_type(knob.annotation)) is tuple:
            fitted = tuple(dict.fromkeys((*before.value, *fitted)))  # report_to and use_swanlab add up
        elif before and before.rank == raw.rank and before.value != fitted:
            self._wrong(raw.written, raw.value, f"contradicts {before.written} ({before.where}); remove one")
        settings.given[knob.key] = Given(fitted, raw.value.where, raw.written, raw.rank)

    def _switch(self, settings: Settings, switch: Switch, raw: _Raw) -> None:
        if _same(raw.value, switch.when):
            target = switch.sets
            self._set(settings, knobs()[target], Value(switch.to, _text(switch.to), raw.value.where), raw)
        elif str(raw.value.data) in switch.notes:
            self.notes.append(f"{raw.written}: {raw.value.data} has nothing to do here: {switch.notes[str(raw.value.data)]}")
        elif raw.value.data is not None and not _same(raw.value, switch.default):
            allowed = ", ".join(_text(word) for word in (switch.default, switch.when, *switch.notes))
            self._wrong(raw.written, raw.value, f"saw {raw.value.data}, wanted one of {allowed}")

    def _unknown(self, key: str, raw: _Raw) -> None:
        if self.environment.allow_extra_args:
            self.notes.append(f"{_printable(raw.written)} is unknown and left out, as ALLOW_EXTRA_ARGS says")
            return
        near = nearest(key, every_key())
        self._wrong(raw.written, raw.value, f"unknown setting{near}; remove it, or see `hone help` for what there is")


def _is_mapping(knob: Knob) -> bool:
    inner = plain_type(knob.annotation)
    return inner is dict or get_origin(inner) is dict or dict in getattr(inner, "__args__", ())


def _merged(before: dict[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    """`before` with `value` at `path`, as a new mapping."""
    head, *rest = path
    inner = before.get(head)
    return {**before, head: _merged(inner if isinstance(inner, dict) else {}, rest, value) if rest else value}


def _flat_word(knob: Knob, value: Value) -> Value:
    """The tree's word for a kind as the flat key's ("pretrain" -> "pt")."""
    back = {kind: word for word, kind in KINDS[knob.section][2].items()}
    text = back.get(str(value.data), value.text)
    return Value(text, text, value.where)


def _text(data: Any) -> str:
    return str(data).lower() if isinstance(data, bool) else str(data)


def _empty(value: Value, default: Any) -> bool:
    """Whether the value asks for nothing; false does not where the default is true."""
    return (value.data is False and default is not True) or (isinstance(value.data, (str, list, dict)) and not value.data)


def _same(value: Value, default: Any) -> bool:
    """Whether the value is `default`, written in any way: 5.0 and 5, "true" and true."""
    if value.data == default and isinstance(value.data, bool) == isinstance(default, bool):
        return True
    text = _text(value.data).strip().lower()
    if isinstance(default, bool):
        return text in (("true", "yes", "on", "y", "1") if default else ("false", "no", "off", "n", "0"))
    if isinstance(default, (int, float)):
        try:
            return not isinstance(value.data, bool) and float(text) == default
        except ValueError:
            return False
    if default is None:
        return text in ("", "none", "null")
    return text == str(default).lower() or (text == "false" and default == "no")


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in text)
