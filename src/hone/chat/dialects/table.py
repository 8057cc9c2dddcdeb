"""The table of dialects, by the names that tool_format knows.

Does not know what any of them writes.
"""

from __future__ import annotations

from hone.chat.dialects.dialect import Dialect
from hone.chat.dialects.headed import DeepSeek3, Glm4, React
from hone.chat.dialects.listed import Llama3, Mistral
from hone.chat.dialects.tagged import Qwen
from hone.errors import TemplateError
from hone.table import nearest

DIALECTS: dict[str, Dialect] = {made.name: made for made in (React(), Qwen(), Llama3(), Mistral(), Glm4(), DeepSeek3())}


def find_dialect(name: str) -> Dialect:
    """The dialect `name`; raises TemplateError with the nearest one and the list."""
    if name not in DIALECTS:
        raise TemplateError(f'unknown tool_format "{name}"{nearest(name, list(DIALECTS))}; known: {", ".join(sorted(DIALECTS))}')
    return DIALECTS[name]
