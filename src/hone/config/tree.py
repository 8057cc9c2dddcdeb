"""Tree: a Run written as YAML, section by section, so that a saved run can be read again and compared.

Does not read it back: `flat` takes both forms.
"""

from __future__ import annotations

from typing import Any

import yaml

from hone.config.run import Run
from hone.config.section import Section


def to_yaml(run: Run) -> str:
    """The whole tree with every default, as YAML that `load` reads; secrets are left out."""
    return yaml.safe_dump(to_dict(run), sort_keys=False, allow_unicode=True, width=120)


def to_dict(section: Section) -> dict[str, Any]:
    """The settings as plain lists, mappings and values, without secrets."""
    found: dict[str, Any] = {}
    for name, field in type(section).model_fields.items():
        extra = field.json_schema_extra
        if isinstance(extra, dict) and extra.get("secret"):
            continue
        value = section.__dict__[name]
        if isinstance(value, Section):
            value = to_dict(value)
        found[name] = list(value) if isinstance(value, tuple) else value
    return found
