"""Tree: a Run written as YAML, section by section, so that a saved run can be read again and compared.

Does not read it back: `flat` takes both forms.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import yaml

from hone.config.run import Run
from hone.config.section import Section


def to_yaml(run: Run, *, only: Collection[tuple[str, ...]] | None = None) -> str:
    """The tree as YAML that `load` reads, secrets left out; only: the paths that are written.

    Every default is in it but those of settings for which to be left out means something of its own.
    """
    tree = to_dict(run)
    return yaml.safe_dump(tree if only is None else _kept(tree, only), sort_keys=False, allow_unicode=True, width=120)


def _kept(tree: dict[str, Any], only: Collection[tuple[str, ...]], path: tuple[str, ...] = ()) -> dict[str, Any]:
    """The branches of `tree` that lead to a path of `only`."""
    kept: dict[str, Any] = {}
    for name, value in tree.items():
        here = (*path, name)
        if here in only:
            kept[name] = value
        elif isinstance(value, dict) and (inner := _kept(value, only, here)):
            kept[name] = inner
    return kept


def to_dict(section: Section) -> dict[str, Any]:
    """The settings as plain lists, mappings and values, without secrets and what was left out with a meaning."""
    found: dict[str, Any] = {}
    for name, field in type(section).model_fields.items():
        extra = field.json_schema_extra
        unsaid = isinstance(extra, dict) and extra.get("left_out") and name not in section.model_fields_set
        if unsaid or (isinstance(extra, dict) and extra.get("secret")):
            continue
        value = section.__dict__[name]
        if isinstance(value, Section):
            value = to_dict(value)
        found[name] = list(value) if isinstance(value, tuple) else value
    return found
