"""Packing: which sequences share a row of bounded length, best fit first.

Knows lengths alone: no tokens, batches or epochs.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass

import numpy as np

from hone.errors import DataError


@dataclass(frozen=True)
class Bins:
    """slots: positions in the sequences sorted by falling length, bin after bin; offsets: where each bin starts, and the end."""

    slots: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def fill(self, lengths: np.ndarray, order: np.ndarray) -> list[np.ndarray]:
        """The rows of each bin, when rows of equal length take their slots in the order of `order`."""
        by_length = order[np.argsort(-lengths[order], kind="stable")]
        return np.split(by_length[self.slots], self.offsets[1:-1])


def best_fit_bins(lengths: np.ndarray, capacity: int) -> Bins:
    """Best-fit decreasing: each sequence, the longest first, goes to the fullest bin that still has room.

    O(n log capacity). The bins depend on the lengths alone, so an order among equals never changes how many there are.
    Raises DataError where a sequence is longer than `capacity`.
    """
    falling = -np.sort(-np.asarray(lengths, dtype=np.int64))
    if len(falling) and falling[0] > capacity:
        raise DataError(f"a sequence of {falling[0]} tokens does not fit a packed row of {capacity}")
    bins: list[list[int]] = []
    bins_by_room: dict[int, list[int]] = {}
    rooms: list[int] = []
    for slot, length in enumerate(falling.tolist()):
        place = bisect_left(rooms, length)
        if place == len(rooms):
            room, chosen = capacity, len(bins)
            bins.append([])
        else:
            room = rooms[place]
            chosen = bins_by_room[room].pop()
            if not bins_by_room[room]:
                del bins_by_room[room], rooms[place]
        bins[chosen].append(slot)
        if room - length not in bins_by_room:
            bins_by_room[room - length] = []
            insort(rooms, room - length)
        bins_by_room[room - length].append(chosen)
    offsets = np.cumsum([0, *(len(slots) for slots in bins)])
    return Bins(np.array([slot for slots in bins for slot in slots], dtype=np.int64), offsets)
