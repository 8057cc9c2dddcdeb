"""Order: which rows make each optimizer step, and which process takes which of them in which micro-batch.

Knows lengths alone: no tokens. Everything follows from seed, epoch and step number, so a run continues anywhere at once.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np

from hone.data.pack import best_fit_bins
from hone.errors import DataError


def epoch_order(num_rows: int, seed: int, epoch: int, shuffle: bool) -> np.ndarray:
    """The rows of an epoch in order: int64 permutation of length num_rows, of seed and epoch alone."""
    if not shuffle:
        return np.arange(num_rows, dtype=np.int64)
    return np.random.default_rng([seed, epoch]).permutation(num_rows).astype(np.int64)


def share_evenly(weights: Sequence[int], counts: Sequence[int]) -> list[list[int]]:
    """Items in groups of the given sizes, with like weights: the heaviest item goes to the lightest group with room.

    `share_evenly([5, 1, 1, 5], [2, 2])` is `[[0, 1], [2, 3]]`. Items keep their order within a group.
    sum(counts) is the number of items.
    """
    assert sum(counts) == len(weights), "every item has one place"
    groups: list[list[int]] = [[] for _ in counts]
    lightest = [(0, index) for index, count in enumerate(counts) if count]
    for item in sorted(range(len(weights)), key=lambda index: (-weights[index], index)):
        weight, index = heapq.heappop(lightest)
        groups[index].append(item)
        if len(groups[index]) < counts[index]:
            heapq.heappush(lightest, (weight + weights[item], index))
    return [sorted(group) for group in groups]


def step_batches(items: Sequence[int], weights: Sequence[int], *, micro: int, world: int) -> list[list[list[int]]]:
    """One step's items as [rank][micro-batch][item], at most `micro` in a micro-batch, with like weights on every rank.

    Ranks get equally many items, the first ones one more where the number does not divide; rank 0 is never empty.
    """
    ranks = []
    for share in share_evenly(weights, _parts(len(items), world)):
        num_batches = -(-len(share) // micro)
        batches = share_evenly([weights[item] for item in share], _parts(len(share), num_batches))
        ranks.append([[items[share[index]] for index in batch] for batch in batches])
    return ranks


def fixed_batches(items: Sequence[int], *, micro: int, world: int) -> list[list[list[int]]]:
    """One step's items as [rank][micro-batch][item]: `micro` after each other, dealt to the ranks in turn.

    The micro-batches are the same on any number of processes, for losses that compare their rows. Rank 0 is never empty.
    """
    batches = [list(items[start : start + micro]) for start in range(0, len(items), micro)]
    return [batches[rank::world] for rank in range(world)]


def _parts(total: int, num_parts: int) -> list[int]:
    return [total // num_parts + (index < total % num_parts) for index in range(num_parts)]


MOST_LOOKED_THROUGH = 500
"""Steps, in looking for the heaviest micro-batch: a second's work."""


class Steps:
    """The optimizer steps of an epoch. `Steps(lengths, per_step=8, micro=2, world=1, seed=42).step(0, 3)`: step 3 of epoch 0.

    lengths: tokens of each row; per_step: micro x accumulation x world. An item is a row, or, where packing_capacity is given, a
    packed row of that many tokens, made anew each epoch of seed and epoch alone (their number is always the same).
    fixed: a micro-batch has the same items on any number of processes, and is not weighed by their lengths.
    The items of a step depend on per_step alone, so any split of it over micro-batches and processes learns from the same.
    """

    def __init__(
        self, lengths: np.ndarray, *, per_step: int, micro: int, world: int, seed: int, shuffle: bool = True,
        drop_last: bool = False, packing_capacity: int | None = None, fixed: bool = False,
    ):  # fmt: skip
        assert per_step % (micro * world) == 0, "per_step is micro x accumulation x world"
        self._lengths = np.asarray(lengths, dtype=np.int64)
        self._per_step, self._micro, self._world = per_step, micro, world
        self._seed, self._shuffle, self._fixed = seed, shuffle, fixed
        self._bins = best_fit_bins(self._lengths, packing_capacity) if packing_capacity else None
        self.num_items = len(self._bins) if self._bins is not None else len(self._lengths)
        self.num_steps_per_epoch = self.num_items // per_step if drop_last else -(-self.num_items // per_step)
        if not self.num_steps_per_epoch:
            raise DataError(
                f"{self.num_items} rows do not fill one step of {per_step}; lower the batch or unset dataloader_drop_last"
            )
        self._epoch, self._items = -1, np.zeros(0, np.int64)
        self._packed: list[np.ndarray] = []

    def step(self, epoch: int, index: int) -> list[list[list[int]]]:
        """The row numbers of step `index` of `epoch` as [rank][micro-batch][row]; cheap once the epoch's order is made."""
        assert 0 <= index < self.num_steps_per_epoch, "no such step in an epoch"
        if epoch != self._epoch:
            self._prepare(epoch)
        items = self._items[index * self._per_step : (index + 1) * self._per_step].tolist()
        rows = [self._packed[item].tolist() if self._bins is not None else [item] for item in items]
        weights = [int(self._lengths[row].sum()) for row in rows]
        if self._fixed:
            dealt = fixed_batches(range(len(items)), micro=self._micro, world=self._world)
            return [[[row for place in batch for row in rows[place]] for batch in batches] for batches in dealt]
        places = step_batches(range(len(items)), weights, micro=self._micro, world=self._world)
        return [[[row for place in batch for row in rows[place]] for batch in batches] for batches in places]

    def heaviest(self, epoch: int, first: int) -> list[int]:
        """The rows of the micro-batch of most tokens, of any rank, from step `first` of `epoch` to its end.

        Exact unless more than MOST_LOOKED_THROUGH steps could hold it.
        """
        if epoch != self._epoch:
            self._prepare(epoch)
        weights = self._lengths[self._items] if self._bins is None else np.array(
            [self._lengths[self._packed[item]].sum() for item in self._items]
        )  # fmt: skip
        steps = np.zeros((self.num_steps_per_epoch, self._per_step), np.int64)
        steps.flat[: min(len(weights), steps.size)] = weights[: steps.size]
        most = np.sort(steps, 1)[:, -self._micro :].sum(1)  # that a micro-batch of the step can weigh
        best, found = -1, []
        for index in (first + np.argsort(-most[first:], kind="stable"))[:MOST_LOOKED_THROUGH].tolist():
            if most[index] <= best:
                break
            for rows in (rows for batches in self.step(epoch, index) for rows in batches):
                if (weight := int(self._lengths[rows].sum())) > best:
                    best, found = weight, rows
        return found

    def _prepare(self, epoch: int) -> None:
        order = epoch_order(len(self._lengths), self._seed, epoch, self._shuffle)
        if self._bins is None:
            self._items = order
        else:
            self._packed = self._bins.fill(self._lengths, order)
            # Best fit leaves the fullest rows first; in the order of the files they go by their first row instead.
            first = np.array([rows.min() for rows in self._packed])
            self._items = (
                epoch_order(self.num_items, self._seed, epoch, True) if self._shuffle else np.argsort(first, kind="stable")
            )
        self._epoch = epoch
