"""Table: names a user can write, each with the place of what it stands for, imported when it is asked for.

Does not know what the entries are; rooms own their tables, plug-ins add rows through entry points.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from hone.errors import HoneError


def nearest(word: str, words: list[str]) -> str:
    """' (did you mean "x"?)' for the nearest of `words`, or '' where none is near."""
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    return f' (did you mean "{close[0]}"?)' if close else ""


class Table(Mapping[str, str]):
    """`Table("adapter", {"lora": "hone.adapters.lora:Lora"}).load("lora")` imports and returns the class.

    group: an entry-point group ("hone.adapters") from which installed plug-ins add rows; they may not replace ours.
    """

    def __init__(self, noun: str, rows: dict[str, str], *, group: str = "", error: type[HoneError] = HoneError):
        self.noun, self.group, self.error = noun, group, error
        self._rows = dict(rows)
        self._searched = not group

    def _all(self) -> dict[str, str]:
        if not self._searched:
            self._searched = True
            from importlib.metadata import entry_points  # as long to import as all of `hone version`

            for point in entry_points(group=self.group):
                self._rows.setdefault(point.name, point.value)
        return self._rows

    def __getitem__(self, name: str) -> str:
        return self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def load(self, name: str) -> Any:
        """Import what `name` stands for; an unknown name is an error with the nearest one and the whole list."""
        rows = self._all()
        if name not in rows:
            raise self.error(f'unknown {self.noun} "{name}"{nearest(name, list(rows))}; known: {", ".join(sorted(rows))}')
        module, _, attribute = rows[name].partition(":")
        return getattr(importlib.import_module(module), attribute)
