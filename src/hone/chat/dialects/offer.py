"""The offer: the text that tells a model which tools there are, from formats/tools.

Does not know where a format puts it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from jinja2 import Template

from hone.chat.marks import Ink, at, environment, run
from hone.chat.table import FORMATS
from hone.errors import TemplateError


def prompt(dialect: str, tools: Sequence[Mapping[str, Any]], ink: Ink) -> str:
    """The marked text that offers `tools`, each an OpenAI function schema with or without its wrapper; '' for none."""
    if not tools:
        return ""
    wrapped = [dict(tool) if "function" in tool else {"type": "function", "function": dict(tool)} for tool in tools]
    for index, tool in enumerate(wrapped):
        if not isinstance(tool["function"], Mapping) or not isinstance(tool["function"].get("name"), str):
            raise TemplateError(
                f'tools[{index}] must be {{"type": "function", "function": {{"name": "...", ...}}}}, not {tool!r:.120}'
            )
    return run(_template(dialect), f"tools/{dialect}", tools=wrapped, write=ink.content, at=at)


@cache
def _template(dialect: str) -> Template:
    return environment().from_string((FORMATS / "tools" / f"{dialect}.jinja").read_text(encoding="utf-8"))
