"""Section and knob: how every setting of the house is declared, once.

Does not know any single setting.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A frozen group of settings; unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


def knob(
    default: Any,
    help: str,
    *,
    flat: str = "",
    unit: str = "",
    level: str = "basic",
    example: str = "",
    secret: bool = False,
    left_out: bool = False,
    **bounds: Any,
) -> Any:
    """A setting. help: full sentences, with when to change it; flat: the YAML key where it is not the attribute's own name;

    unit: of a number ("tokens", "steps"); level: "basic" or "advanced"; example: a value as it is written in YAML;
    secret: never written to a file or a log; left_out: to leave it out says something else than its default, so that a tree
    in which it was left out is written without it; bounds: pydantic's ge, gt, le, lt.
    """
    extra = {"flat": flat, "unit": unit, "level": level, "example": example, "secret": secret, "left_out": left_out}
    return Field(default, description=help, json_schema_extra=extra, repr=not secret, **bounds)
