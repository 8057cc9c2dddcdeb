"""What a GGUF file holds, from its head alone: the number format of every tensor.

Does not know models. The package `gguf` reads heads too, and keeps an array for every word of a vocabulary, for seconds.
"""

from __future__ import annotations

import mmap
import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from hone.export.gguf.package import load_gguf

_WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a value, by gguf's number of its type; 8 is text and 9 a list."""


@dataclass(frozen=True)
class Head:
    """types: how many tensors are in each number format, most first."""

    num_bytes: int
    types: dict[str, int]

    @property
    def num_tensors(self) -> int:
        """All of them."""
        return sum(self.types.values())


def read_head(file: Path) -> Head:
    """Of a file that is complete, as ours and llama.cpp's are when they have been written."""
    names = load_gguf().GGMLQuantizationType
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
        _, _, num_tensors, num_settings = struct.unpack_from("<4sIQQ", data, 0)
        at = 24
        for _ in range(num_settings):
            at = _behind_text(data, at)
            (kind,) = struct.unpack_from("<I", data, at)
            at = _behind_value(data, at + 4, kind)
        found: Counter[str] = Counter()
        for _ in range(num_tensors):
            at = _behind_text(data, at)
            (num_axes,) = struct.unpack_from("<I", data, at)
            (kind,) = struct.unpack_from("<I", data, at + 4 + 8 * num_axes)
            found[names(kind).name] += 1
            at += 4 + 8 * num_axes + 12
        return Head(len(data), dict(found.most_common()))


def _behind_text(data: mmap.mmap, at: int) -> int:
    return at + 8 + struct.unpack_from("<Q", data, at)[0]


def _behind_value(data: mmap.mmap, at: int, kind: int) -> int:
    if kind == 8:
        return _behind_text(data, at)
    if kind != 9:
        return at + _WIDTHS[kind]
    inner, count = struct.unpack_from("<IQ", data, at)
    at += 12
    if inner in _WIDTHS:
        return at + _WIDTHS[inner] * count
    for _ in range(count):
        at = _behind_value(data, at, inner)
    return at
