"""Tests of mixing: the orders of `datasets.interleave_datasets`, random draws, and what is held back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hone.data.mix import draw, hold_back, mix
from hone.errors import DataError

STRATEGIES = {
    "interleave_under": "first_exhausted",
    "interleave_over": "all_exhausted",
    "interleave_once": "all_exhausted_without_replacement",
}


def pairs(*args, **kwargs):
    sets, rows = mix(*args, **kwargs)
    assert sets.dtype == np.int32 and rows.dtype == np.int64
    return list(zip(sets.tolist(), rows.tolist(), strict=True))


def test_concat():
    assert pairs([2, 0, 1], "concat") == [(0, 0), (0, 1), (2, 0)]


def test_taking_turns():
    assert pairs([2, 3], "interleave_under") == [(0, 0), (1, 0), (0, 1), (1, 1)]
    assert pairs([2, 3], "interleave_over") == [(0, 0), (1, 0), (0, 1), (1, 1), (0, 0), (1, 2)]
    assert pairs([2, 3], "interleave_once") == [(0, 0), (1, 0), (0, 1), (1, 1), (1, 2)]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("probs", [(), (0.2, 0.5, 0.3)])
def test_the_order_is_that_of_datasets(strategy, probs):
    datasets = pytest.importorskip("datasets")
    sizes = [700, 1200, 3]
    parts = [datasets.Dataset.from_dict({"set": [number] * size, "row": range(size)}) for number, size in enumerate(sizes)]
    theirs = datasets.interleave_datasets(
        parts, probabilities=list(probs) or None, seed=7, stopping_strategy=STRATEGIES[strategy]
    )
    assert pairs(sizes, strategy, probs=probs, seed=7) == list(zip(theirs["set"], theirs["row"], strict=True))


@settings(deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=4), st.integers(0, 9), st.booleans(), st.sampled_from(list(STRATEGIES)))
def test_laws_of_interleaving(sizes, seed, drawn, strategy):
    probs = [1 / len(sizes)] * len(sizes) if drawn else []
    mixed = pairs(sizes, strategy, probs=probs, seed=seed)
    everything = {(number, row) for number, size in enumerate(sizes) for row in range(size)}
    assert set(mixed) <= everything
    if strategy != "interleave_over":
        assert len(set(mixed)) == len(mixed)
    if strategy != "interleave_under":
        assert set(mixed) == everything


def test_a_set_without_rows_is_not_interleaved():
    with pytest.raises(DataError, match="without rows"):
        mix([2, 0], "interleave_under")


def test_a_set_with_share_0_is_never_drawn():
    assert pairs([4, 3], "interleave_under", probs=(0.0, 1.0)) == [(1, 0), (1, 1), (1, 2)]


@given(st.integers(1, 50), st.integers(1, 120), st.integers(0, 5))
def test_draw_gives_all_once_before_any_twice(size, wanted, seed):
    chosen = draw(size, wanted, seed)
    assert len(chosen) == wanted and chosen.max() < size
    assert len(np.unique(chosen)) == min(size, wanted)
    assert chosen.tolist() == draw(size, wanted, seed).tolist()


@given(st.lists(st.integers(0, 8), min_size=2, max_size=40), st.integers(1, 10), st.integers(0, 5))
def test_a_group_stands_on_one_side(groups, wanted, seed):
    groups = np.array(groups)
    held = hold_back(groups, min(wanted, len(groups)), seed)
    assert held.sum() >= min(wanted, len(groups))
    assert not set(groups[held]) & set(groups[~held])


def test_exactly_as_many_are_held_back_as_wanted():
    assert hold_back(np.arange(100), 7, seed=0).sum() == 7
    assert hold_back(np.arange(100), 7, seed=0).tolist() != hold_back(np.arange(100), 7, seed=1).tolist()
