"""Tests of packing and of the order of steps: what a step learns from does not depend on how it is divided."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hone.data.order import Steps, epoch_order, share_evenly, step_batches
from hone.data.pack import best_fit_bins
from hone.errors import DataError

many_lengths = st.lists(st.integers(1, 50), min_size=1, max_size=60).map(np.array)


def packed(lengths: np.ndarray, capacity: int, *, order: np.ndarray) -> list[list[int]]:
    return [rows.tolist() for rows in best_fit_bins(lengths, capacity).fill(lengths, order)]


def test_best_fit_by_hand():
    assert packed(np.array([3, 6, 4, 2]), 8, order=np.arange(4)) == [[1, 3], [2, 0]]
    assert packed(np.array([5, 5, 3, 3]), 8, order=np.array([1, 0, 2, 3])) == [[1, 3], [0, 2]]
    with pytest.raises(DataError, match="9 tokens does not fit a packed row of 8"):
        packed(np.array([9]), 8, order=np.arange(1))


@given(many_lengths, st.integers(50, 120), st.randoms())
def test_laws_of_packing(lengths, capacity, random):
    order = list(range(len(lengths)))
    random.shuffle(order)
    bins = packed(lengths, capacity, order=np.array(order))
    assert sorted(row for rows in bins for row in rows) == list(range(len(lengths)))
    assert all(lengths[rows].sum() <= capacity for rows in bins)
    assert len(bins) == len(best_fit_bins(lengths, capacity))  # whatever the order
    # No two bins less than half full, or best fit would have joined them.
    assert sum(lengths[rows].sum() * 2 <= capacity for rows in bins) <= 1


def test_packing_fills_rows_and_is_quick():
    lengths = np.random.default_rng(0).lognormal(5, 1, 200_000).astype(int).clip(8, 4096)
    started = time.perf_counter()
    bins = best_fit_bins(lengths, 4096)
    assert time.perf_counter() - started < 5  # 0.3 s on an idle core
    assert lengths.sum() / (len(bins) * 4096) > 0.999


def test_the_order_of_an_epoch_follows_from_seed_and_epoch():
    order = epoch_order(1000, 42, 3, True)
    assert sorted(order.tolist()) == list(range(1000))
    assert order.tolist() == epoch_order(1000, 42, 3, True).tolist()
    assert order.tolist() != epoch_order(1000, 42, 4, True).tolist() and order.tolist() != epoch_order(1000, 43, 3, True).tolist()
    assert epoch_order(4, 42, 3, False).tolist() == [0, 1, 2, 3]


@given(st.lists(st.integers(1, 9), max_size=20), st.integers(1, 5))
def test_share_evenly_gives_every_item_one_place(weights, num_groups):
    counts = [len(weights) // num_groups + (index < len(weights) % num_groups) for index in range(num_groups)]
    groups = share_evenly(weights, counts)
    assert [len(group) for group in groups] == counts
    assert sorted(item for group in groups for item in group) == list(range(len(weights)))


def test_ranks_get_like_numbers_of_tokens():
    weights = np.random.default_rng(1).integers(10, 2000, 64).tolist()
    ranks = step_batches(range(64), weights, micro=4, world=4)
    tokens = [sum(weights[item] for batch in rank for item in batch) for rank in ranks]
    assert max(tokens) / min(tokens) < 1.02
    assert all(len(batch) == 4 for rank in ranks for batch in rank)


@settings(deadline=None)
@given(
    many_lengths,
    st.sampled_from([(8, 1), (4, 1), (2, 1), (1, 1), (2, 2), (1, 4), (4, 2)]),
    st.booleans(),
    st.sampled_from([None, 64]),
)
def test_a_step_learns_from_the_same_rows_however_it_is_divided(lengths, split, shuffle, capacity):
    micro, world = split
    one = Steps(lengths, per_step=8, micro=8, world=1, seed=5, shuffle=shuffle, packing_capacity=capacity)
    other = Steps(lengths, per_step=8, micro=micro, world=world, seed=5, shuffle=shuffle, packing_capacity=capacity)
    assert one.num_steps_per_epoch == other.num_steps_per_epoch
    for epoch in range(2):
        seen = []
        for index in range(other.num_steps_per_epoch):
            ranks = other.step(epoch, index)
            rows = sorted(row for rank in ranks for batch in rank for row in batch)
            assert rows == sorted(row for batch in one.step(epoch, index)[0] for row in batch)
            assert len(ranks) == world and ranks[0] and all(batch for rank in ranks for batch in rank)
            if capacity is None:
                assert all(len(batch) <= micro for rank in ranks for batch in rank)
            seen += rows
        assert sorted(seen) == list(range(len(lengths)))


@settings(deadline=None)
@given(many_lengths, st.sampled_from([None, 64]), st.booleans())
def test_the_order_is_the_same_on_one_to_four_processes(lengths, capacity, fixed):
    """A step of 12 on 1, 2, 3 and 4 processes: the same rows as a set, in every epoch, on no process twice."""
    worlds = [
        Steps(lengths, per_step=12, micro=1, world=world, seed=3, packing_capacity=capacity, fixed=fixed)
        for world in (1, 2, 3, 4)
    ]
    for epoch in range(2):
        for index in range(worlds[0].num_steps_per_epoch):
            taken = [[row for rank in steps.step(epoch, index) for batch in rank for row in batch] for steps in worlds]
            assert all(sorted(rows) == sorted(taken[0]) for rows in taken)


def test_steps_can_be_asked_in_any_order():
    lengths = np.arange(1, 101)
    steps = Steps(lengths, per_step=8, micro=2, world=2, seed=1)
    forward = {(epoch, index): steps.step(epoch, index) for epoch in range(2) for index in range(13)}
    fresh = Steps(lengths, per_step=8, micro=2, world=2, seed=1)
    assert all(fresh.step(*key) == forward[key] for key in reversed(forward))


def test_the_last_step_is_smaller_or_left_out():
    lengths = np.ones(10, int)
    kept = Steps(lengths, per_step=4, micro=2, world=2, seed=1)
    assert kept.num_steps_per_epoch == 3
    assert [sum(map(len, rank)) for rank in kept.step(0, 2)] == [1, 1]
    assert Steps(lengths, per_step=4, micro=2, world=2, seed=1, drop_last=True).num_steps_per_epoch == 2
    with pytest.raises(DataError, match="10 rows do not fill one step of 16"):
        Steps(lengths, per_step=16, micro=16, world=1, seed=1, drop_last=True)


def test_without_shuffling_packed_rows_follow_the_file():
    steps = Steps(np.array([4, 4, 4, 4, 8]), per_step=1, micro=1, world=1, seed=1, shuffle=False, packing_capacity=8)
    assert [steps.step(0, index) for index in range(3)] == [[[[0, 1]]], [[[2, 3]]], [[[4]]]]


def test_packing_changes_with_the_epoch_but_not_the_number_of_rows():
    lengths = np.random.default_rng(2).integers(1, 30, 500)
    steps = Steps(lengths, per_step=4, micro=4, world=1, seed=1, packing_capacity=64)
    epochs = [[steps.step(epoch, index) for index in range(steps.num_steps_per_epoch)] for epoch in range(2)]
    assert epochs[0] != epochs[1]
    assert steps.num_items == -(-lengths.sum() // 64)
