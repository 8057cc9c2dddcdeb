"""Shown: the pictures, films and sounds of one sequence, and the Reader that prepares them for a model.

Knows no file's form, no processor and no tensor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from hone.chat.message import Media


class Reader(Protocol):
    """What a codec asks of whoever prepares media for a model.

    tokens: by kind of media, the id that a format writes once for each, and that others take the place of. fingerprint: changes
    whenever these others may.
    """

    @property
    def tokens(self) -> Mapping[str, int]: ...

    @property
    def fingerprint(self) -> str: ...

    def stand_ins(self, part: Media) -> np.ndarray:
        """int32: the ids that stand for it. Reads no more of a file than it must. Raises: MediaError."""
        ...

    def save(self, folder: Path) -> None:
        """Write what another reader is made from."""
        ...

    def see(self, parts: Sequence[Media]) -> dict[str, Any]:
        """Tensors by the names that the model's forward gives them, of the parts in order. Raises: MediaError."""
        ...


@dataclass(frozen=True)
class Shown:
    """The media of a sequence, in order, and who prepares them; files are read when `tensors` is called."""

    parts: tuple[Media, ...] = ()
    reader: Reader | None = None

    def tensors(self) -> dict[str, Any]:
        """What the model is given beside the ids; nothing where there are no media."""
        if not self.parts:
            return {}
        assert self.reader is not None, "media of a sequence that nobody reads"
        return self.reader.see(self.parts)


NOTHING = Shown()
