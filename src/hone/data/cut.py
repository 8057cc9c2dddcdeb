"""Cutting one encoded sequence down to a length: only what somebody wrote is cut, never the template's own tokens.

Does not know conversations, policies or files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from hone.chat.encoded import IGNORE, Encoded, Piece


def contents(encoded: Encoded, wanted: Callable[[int], bool]) -> list[np.ndarray]:
    """Positions of the content tokens of each message whose number is `wanted`, in order."""
    places: dict[int, list[np.ndarray]] = {}
    for piece in encoded.pieces:
        if piece.kind == "content" and wanted(piece.message):
            places.setdefault(piece.message, []).append(np.arange(piece.start, piece.end))
    return [np.concatenate(runs) for runs in places.values()]


def level_cut(lengths: Sequence[int], surplus: int, floor: int) -> list[int]:
    """How much to cut of each length so that `surplus` goes, the longest first, down to one common level, none below `floor`.

    `level_cut([10, 4, 7], 5, 2)` is `[4, 0, 1]`: all are at most 6. Cuts all it may where that is not enough.
    """
    spare = sum(max(length - floor, 0) for length in lengths)
    if spare <= surplus:
        return [max(length - floor, 0) for length in lengths]
    low, high = floor, max(lengths)
    while low < high:  # the highest level at which enough is cut
        middle = (low + high + 1) // 2
        enough = sum(max(length - middle, 0) for length in lengths) >= surplus
        low, high = (middle, high) if enough else (low, middle - 1)
    cuts = [max(length - low, 0) for length in lengths]
    excess = sum(cuts) - surplus
    for index, cut in enumerate(cuts):  # a level cuts up to one token too much of each
        if excess and cut:
            cuts[index] -= 1
            excess -= 1
    return cuts


def keep_only(encoded: Encoded, keep: np.ndarray) -> Encoded:
    """The tokens where `keep` is True, with the pieces that are left."""
    before = np.concatenate([[0], np.cumsum(keep)])
    pieces = []
    for piece in encoded.pieces:
        start, end = int(before[piece.start]), int(before[piece.end])
        if end > start:
            pieces.append(Piece(start, end, piece.kind, piece.message))
    return Encoded(encoded.ids[keep], encoded.labels[keep], partial(tuple, pieces), encoded.shown)


def windows(encoded: Encoded, cutoff_len: int) -> list[Encoded]:
    """Pieces of a long text, each at most cutoff_len; every token that was learned is learned once.

    The last token of one opens the next, where it is not learned again but the token after it is predicted from it.
    """
    step = max(cutoff_len - 1, 1)
    starts = range(0, max(len(encoded) - 1, 1), step)
    parts = []
    for start in starts:
        labels = encoded.labels[start : start + cutoff_len].copy()
        if start:
            labels[0] = IGNORE
        parts.append(Encoded(encoded.ids[start : start + cutoff_len], labels))
    return parts
