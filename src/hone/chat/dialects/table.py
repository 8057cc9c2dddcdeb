"""The table of dialects, by the names that tool_format knows.

Does not know what any of them writes.
"""

from __future__ import annotations

from hone.chat.dialects.dialect import Dialect
from hone.chat.dialects.listed import LISTED
from hone.chat.dialects.marked import MARKED
from hone.chat.dialects.named import NAMED
from hone.chat.dialects.plainly import PLAINLY
from hone.chat.dialects.tagged import TAGGED
from hone.errors import TemplateError
from hone.table import nearest

DIALECTS: dict[str, Dialect] = {made.name: made for made in (*TAGGED, *LISTED, *NAMED, *MARKED, *PLAINLY)}


def find_dialect(name: str) -> Dialect:
    """The dialect `name`; raises TemplateError with the nearest one and the list."""
    if name not in DIALECTS:
        raise TemplateError(f'unknown tool_format "{name}"{nearest(name, list(DIALECTS))}; known: {", ".join(sorted(DIALECTS))}')
    return DIALECTS[name]
