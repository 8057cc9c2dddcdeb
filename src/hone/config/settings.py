"""Settings: the flat keys that were written, as values of their knobs, before they become the tree.

Does not know how they were read nor which combinations are right.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hone.config.knobs import KINDS, knobs
from hone.config.run import Run


@dataclass(frozen=True)
class Given:
    """One value that was written. written: the key as the user wrote it; rank: later sources (the command line) are higher."""

    value: Any
    where: str
    written: str
    rank: int


@dataclass
class Settings:
    """`settings["lora_rank"]` is the value written, or the default."""

    given: dict[str, Given] = field(default_factory=dict)

    def __getitem__(self, key: str) -> Any:
        return self.given[key].value if key in self.given else knobs()[key].default

    def asks(self, key: str) -> bool:
        """Whether the key was written with another value than its default."""
        return key in self.given and self.given[key].value != knobs()[key].default

    def where(self, key: str) -> str:
        """File and line of the key; "" where it was not written."""
        return self.given[key].where if key in self.given else ""

    def written(self, key: str) -> str:
        """The key as the user wrote it."""
        return self.given[key].written if key in self.given else key

    def kind(self, section: str) -> str:
        """The kind in the tree of a union section ("adapter" -> "lora")."""
        key, _, words, _ = KINDS[section]
        return words[self[key]]

    def build(self) -> Run:
        """The frozen tree of everything that applies; every value was fitted to its knob before."""
        tree: dict[str, Any] = {section: {"kind": self.kind(section)} for section in KINDS}
        for key, given in self.given.items():
            knob = knobs()[key]
            if knob.path[-1] == "kind" and knob.section in KINDS:
                continue
            if knob.kinds and self.kind(knob.section) not in knob.kinds:
                continue
            if len(knob.path) == 3 and self["quantization_bit"] is None:
                continue
            branch = tree
            for name in knob.path[:-1]:
                branch = branch.setdefault(name, {})
            branch[knob.path[-1]] = given.value
        return Run.model_validate(tree)
