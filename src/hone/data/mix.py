"""Mixing: in which order, and how often, the rows of several sets follow one another.

Knows how many rows each set has, and nothing of what is in them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hone.errors import DataError

BLOCK = 1000
"""Sets drawn at a time; the same as in `datasets`, so that the same seed gives the same order as there."""


def mix(sizes: Sequence[int], strategy: str, *, probs: Sequence[float] = (), seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(set, row) of every mixed row: int32 and int64 arrays.

    strategy: "concat", one set after the other; "interleave_under", in turn until the first set is used up; "interleave_over",
    until the last is, the others starting again; "interleave_once", until all are, each row once.
    probs: the chance of each set at each draw, 1 in all; without them the sets take turns. The orders are those of
    `datasets.interleave_datasets` with the same seed.
    """
    _check(sizes, strategy, probs)
    if strategy == "concat":
        sets = np.repeat(np.arange(len(sizes)), sizes)
    elif probs:
        sets = _drawn(sizes, strategy, np.asarray(probs, dtype=np.float64), seed)
    else:
        sets = _in_turn(sizes, strategy)
    return sets.astype(np.int32), _rows(sets, sizes)


def _check(sizes: Sequence[int], strategy: str, probs: Sequence[float]) -> None:
    assert not probs or (strategy != "concat" and len(probs) == len(sizes)), "the settings' rules let no such shares through"
    assert not probs or strategy == "interleave_under" or min(probs) > 0, "a set that is never drawn is never used up"
    if strategy != "concat" and any(size == 0 for size in sizes):
        raise DataError("a set without rows cannot be interleaved; leave it out")


def _in_turn(sizes: Sequence[int], strategy: str) -> np.ndarray:
    rounds = min(sizes) if strategy == "interleave_under" else max(sizes)
    sets = np.tile(np.arange(len(sizes)), rounds)
    if strategy != "interleave_once":
        return sets
    return sets[np.repeat(np.arange(rounds), len(sizes)) < np.asarray(sizes)[sets]]


def _drawn(sizes: Sequence[int], strategy: str, probs: np.ndarray, seed: int) -> np.ndarray:
    """Sets drawn at random until the strategy's end."""
    random = np.random.default_rng(seed)
    blocks, counts = [], np.zeros(len(sizes), dtype=np.int64)
    ended = np.any if strategy == "interleave_under" else np.all
    while not ended(counts >= sizes):
        blocks.append(random.choice(len(sizes), size=BLOCK, p=probs / probs.sum()))
        counts += np.bincount(blocks[-1], minlength=len(sizes))
    sets = np.concatenate(blocks)
    used_up = [
        int(np.flatnonzero(sets == index)[size - 1]) if counts[index] >= size else len(sets) for index, size in enumerate(sizes)
    ]
    sets = sets[: (min if strategy == "interleave_under" else max)(used_up) + 1]
    if strategy != "interleave_once":
        return sets
    occurrence = np.empty(len(sets), dtype=np.int64)
    for index in range(len(sizes)):
        places = np.flatnonzero(sets == index)
        occurrence[places] = np.arange(len(places))
    return sets[occurrence < np.asarray(sizes)[sets]]


def _rows(sets: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """The row of each draw: a set's rows in order, from the start again where it is used up."""
    rows = np.empty(len(sets), dtype=np.int64)
    for index, size in enumerate(sizes):
        places = np.flatnonzero(sets == index)
        rows[places] = np.arange(len(places)) % max(size, 1)
    return rows


def draw(size: int, wanted: int, seed: int) -> np.ndarray:
    """`wanted` of `size` rows at random (int64); where it is more, all of them once and the rest drawn again."""
    if not size:
        return np.zeros(0, dtype=np.int64)
    random = np.random.default_rng([seed, 1])
    chosen = random.permutation(size)[:wanted]
    more = random.choice(size, size=wanted - len(chosen)) if wanted > size else np.zeros(0, np.int64)
    return random.permutation(np.concatenate([chosen, more])).astype(np.int64)


def hold_back(groups: np.ndarray, wanted: int, seed: int) -> np.ndarray:
    """Which rows are held back (bool): `wanted` different ones or a few more, whole groups at a time.

    groups: a number of each row; rows of one group (repeats, parts of one long row) never stand on both sides.
    """
    _, inverse, counts = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.random.default_rng([seed, 2]).permutation(len(counts))
    enough = int(np.searchsorted(np.cumsum(counts[order]), wanted)) + 1
    held = np.zeros(len(counts), dtype=bool)
    held[order[:enough]] = True
    return held[inverse]
