"""Batches are laid out ahead by a thread: the same as when asked for alone, from any step on, and what fails there is told."""

from __future__ import annotations

import threading
import traceback
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from hone.chat.encoded import Encoded, Example
from hone.data.order import Steps
from hone.models.policy import Policy, _require_first_ignored
from hone.training.feed import AHEAD, Feed
from tests.families import tiny

LENGTHS = np.array([3, 9, 4, 7, 5, 6, 8, 2, 4, 5])


@dataclass
class Rows:
    """Examples of LENGTHS; row `bad` cannot be read. taken: rows read so far, by which thread."""

    bad: int = -1
    aside: dict[str, Any] = field(default_factory=dict)
    taken: list[tuple[int, str]] = field(default_factory=list)

    def __getitem__(self, row: int) -> Example:
        if row == self.bad:
            raise OSError(f"row {row} is gone")
        self.taken.append((row, threading.current_thread().name))
        ids = np.arange(1, LENGTHS[row] + 1, dtype=np.int32)
        return Example((Encoded(ids, ids),))


def feed_of(rows: Rows) -> Feed:
    steps = Steps(LENGTHS, per_step=2, micro=1, world=1, seed=3)
    return Feed(rows, steps, rank=0, packing="packed", pad_id=0)  # type: ignore[arg-type]


def told(batches: list[Any]) -> list[tuple[Any, ...]]:
    return [(micro.batch.rows, micro.batch.ids_BT.tolist(), micro.counts) for micro in batches]


def test_steps_are_those_asked_for_alone_from_any_step_on():
    alone = [told(feed_of(Rows()).step(number)) for number in range(12)]
    assert [told(step) for step in feed_of(Rows()).steps(0, 12)] == alone
    assert [told(step) for step in feed_of(Rows()).steps(7, 12)] == alone[7:]
    assert list(feed_of(Rows()).steps(4, 4)) == []


def test_a_thread_is_two_steps_ahead_and_no_further():
    rows = Rows()
    steps = feed_of(rows).steps(0, 5)
    next(steps)
    steps.close()  # waits for what is under way
    assert AHEAD == 2 and 2 <= len(rows.taken) <= 2 * (1 + AHEAD)
    assert {name.rpartition("_")[0] for _, name in rows.taken} == {"feed"}


def test_a_row_that_fails_ends_its_own_step_with_the_place():
    (bad,) = feed_of(Rows()).step(3)[1].batch.rows
    steps = feed_of(Rows(bad=bad)).steps(0, 5)
    assert len([next(steps) for _ in range(3)]) == 3
    with pytest.raises(OSError, match=f"row {bad} is gone") as failed:
        next(steps)
    assert "lay_out" in "".join(traceback.format_exception(failed.value))


def test_a_batch_on_a_device_is_looked_at_on_the_host():
    """The meta device has no numbers to look at: whoever asks it for one fails, as whoever asks a GPU waits."""
    (micro, _) = feed_of(Rows()).step(0)
    moved = micro.batch.to(torch.device("meta"))
    assert moved.known is micro.batch and moved.beside({"mean": 1.0}).known is micro.batch and moved.ids_BT.is_meta
    with torch.device("meta"):
        policy = Policy(tiny("llama").eval())
    _require_first_ignored(moved)
    assert policy._inputs(moved)["attention_mask"] is None
