"""Describe: what a setting is, in words for a terminal, read off its declaration.

Does not know the commands.
"""

from __future__ import annotations

import textwrap
from typing import Any

from hone.config.convert import wanted
from hone.config.knobs import KINDS, Knob, every_key, knobs, sections_of, words
from hone.config.run import Run
from hone.errors import HoneError
from hone.table import nearest

WIDTH = 100


def describe(key: str) -> str:
    """Everything about one setting, by its flat key or its path in the tree; raises HoneError where there is none."""
    paths = {".".join(knob.path): name for name, knob in knobs().items()}
    name = paths.get(key, key)
    tables = words()
    if name in tables.renamed:
        return f"{name} is the old word for {tables.renamed[name]}\n\n{describe(tables.renamed[name])}"
    if name in knobs():
        return _knob(knobs()[name])
    if name in tables.switches:
        row = tables.switches[name]
        effect = f"{name}: {written(row.when)} means {row.sets}: {written(row.to)}"
        return "\n".join([name, _wrapped(row.help), "", _row("default", written(row.default)), _row("effect", effect)])
    if name in tables.unneeded:
        why = tables.unneeded[name].why
        return "\n".join([name, _wrapped(f"Accepted with any value, and has nothing to do in hone: {why}.")])
    if name in tables.refused:
        row = tables.refused[name]
        text = f"Not honoured: {row.reason}. Instead: {row.instead}."
        return "\n".join([name, _wrapped(text), "", _row("accepted", f"{name}: {written(row.default)}, which asks for nothing")])
    known = [*every_key(), *Run.model_fields]
    raise HoneError(f'there is no setting "{key}"{nearest(key, known)}; `hone help train` lists them')


def _knob(knob: Knob) -> str:
    lines = [f"{knob.key}   ({'.'.join(knob.path)})", _wrapped(knob.help), ""]
    lines.append(_row("type", "one of the choices" if knob.choices else wanted(knob)))
    lines.append(_row("default", "none: it must be written" if knob.required else written(knob.default)))
    if knob.choices:
        lines.append(_row("choices", ", ".join(str(choice) for choice in knob.choices)))
    if knob.unit:
        lines.append(_row("unit", knob.unit))
    if knob.kinds:
        flat, _, by_word, _ = KINDS[knob.section]
        own = " or ".join(word for word, kind in by_word.items() if kind in knob.kinds)
        lines.append(_row("only with", f"{flat}: {own}"))
    lines.append(_row("section", f"{knob.section}, {knob.level}"))
    lines.append(_row("example", f"{knob.key}: {example(knob)}"))
    for value, reason in words().refused_values.get(knob.key, {}).items():
        lines.append(_row("not here", f"{value}: {reason}"))
    return "\n".join(lines)


def example(knob: Knob) -> str:
    """A value as it is written in YAML: the declared one, else another than the default where there is one."""
    if knob.example:
        return knob.example
    others = [choice for choice in knob.choices if choice != knob.default]
    if others:
        return str(others[0])
    return written(not knob.default if isinstance(knob.default, bool) else knob.default)


def written(value: Any) -> str:
    """A value as it stands in YAML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(str(part) for part in value) or "none given"
    if value is None:
        return "null"
    if isinstance(value, float):
        return f"{value:g}"
    return '""' if value == "" else "{}" if value == {} else str(value)


def list_section(section: str) -> str:
    """Every setting of a section, one line each, those for every day first."""
    field = Run.model_fields[section]
    title = " ".join((sections_of(field.annotation)[0].__doc__ or "").split())
    own = [knob for knob in knobs().values() if knob.section == section]
    if section in KINDS:
        title = own[0].help
    lines = [f"{section}: {title}"]
    for knob in sorted(own, key=lambda knob: knob.level != "basic"):
        kinds = f" [{', '.join(knob.kinds)}]" if knob.kinds else ""
        default = "required" if knob.required else written(knob.default)
        first = knob.help.split(". ")[0].rstrip(".")
        head = f"  {knob.key} ({default}){kinds}"
        lines.append(textwrap.fill(f"{head}: {first}.", WIDTH, subsequent_indent=" " * 6))
    return "\n".join(lines)


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent="  ", subsequent_indent="  ")


def _row(name: str, text: str) -> str:
    return textwrap.fill(f"  {name:<10}{text}", WIDTH, subsequent_indent=" " * 12, break_long_words=False)
