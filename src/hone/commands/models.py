"""hone models: searches the catalogue of model families; without a word it lists the families.

Does not know the catalogue's form, and loads no model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from hone.config.environment import read_environment
from hone.errors import ConfigError, HoneError
from hone.models.catalog import HUBS, Entry, Group, model_catalog
from hone.table import nearest

_WIDEST = 36  # of a name; with the longest id and the hubs a line has 100 columns


def main(arguments: list[str]) -> int:
    """Print the groups and models that hold every word, or every family; `--json`: one object a model."""
    words = [word for word in arguments if word != "--json"]
    if options := [word for word in words if word.startswith("-")]:
        raise HoneError(f"unknown option {options[0]}; models takes words and --json")
    environment, mistakes = read_environment()
    if mistakes:
        raise ConfigError(mistakes)
    catalog = model_catalog()
    found = list(catalog.search(words))
    if not found:
        near = nearest(" ".join(words), catalog.names)
        raise HoneError(f'no model, id, family or template holds "{" ".join(words)}"{near}; `hone models` lists the families')
    if "--json" in arguments:
        print(json.dumps([as_json(group, entry) for group in found for entry in group.models], indent=1, ensure_ascii=False))
    else:
        print("\n".join(listing(found, environment.hub) if words else families(found)))
    return 0


def as_json(group: Group, entry: Entry) -> dict[str, object]:
    """One model for machines, its family's properties with it."""
    own = {"name": entry.name, "ids": dict(entry.ids), "billions": entry.billions}
    return {**own, "group": group.name, "template": group.template, "thinking": group.thinking, "media": list(group.media)}


def listing(groups: list[Group], hub: str) -> Iterator[str]:
    """A line a group, and below it a line a model: size in billions, id on `hub`, hubs that have it."""
    for group in groups:
        yield f"{group.name}: {about(group)}"
        for entry in group.models:
            size = "-" if entry.billions is None else f"{entry.billions:g}B"
            place = entry.ids.get(hub, f"not on {HUBS[hub]}")
            yield f"  {entry.name:<{_WIDEST}} {size:>6}  {place:<43} {' '.join(entry.ids)}".rstrip()


def families(groups: list[Group]) -> Iterator[str]:
    """A line a group, and what to type next."""
    yield f"{'family':<26}{'models':>6}  template"
    for group in groups:
        yield f"{group.name:<26}{len(group.models):>6}  {about(group).removeprefix('template ')}"
    total = sum(len(group.models) for group in groups)
    yield f"{len(groups)} families, {total} models; `hone models WORD` shows those that hold a word (a name, an id, a template)"


def about(group: Group) -> str:
    """Its template and what its models take and do."""
    said = f"template {group.template}" if group.template else "no template"
    return ", ".join([said, *group.media, *(["thinking"] if group.thinking else [])])
