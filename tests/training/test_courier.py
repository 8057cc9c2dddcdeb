"""Batches that are copied beside the computation: the order of what a device is told, with a stand-in for CUDA."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hone.chat.encoded import Encoded, Example
from hone.data.batch import Batch, pack
from hone.data.order import Steps
from hone.training.courier import Courier, courier_for
from hone.training.feed import Feed

CPU = torch.device("cpu")


class Cuda:
    """What a courier asks of torch.cuda, written down: (stream, what). A copy happens on the stream of the thread that asks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.told: list[tuple[str, str]] = []
        self.now = threading.local()
        self.num_events = 0
        cuda, to = self, Batch.to
        monkeypatch.setattr(Batch, "pinned", lambda batch: batch)
        monkeypatch.setattr(Batch, "to", lambda batch, device: cuda.note(f"copy {batch.rows}") or to(batch, device))
        monkeypatch.setattr(Tensor, "record_stream", lambda tensor, stream: cuda.told.append((stream.name, "keep")))

    def note(self, what: str) -> None:
        self.told.append((getattr(self.now, "stream", "main"), what))

    def Stream(self, device: torch.device) -> Any:
        return Stream(self, "beside")

    def current_stream(self, device: torch.device) -> Any:
        return Stream(self, getattr(self.now, "stream", "main"))

    @contextmanager
    def stream(self, stream: Any) -> Any:
        self.now.stream = stream.name
        yield
        self.now.stream = "main"


class Stream:
    def __init__(self, cuda: Cuda, name: str):
        self.cuda, self.name = cuda, name

    def record_event(self) -> str:
        self.cuda.num_events += 1
        self.cuda.told.append((self.name, f"event {self.cuda.num_events}"))
        return f"event {self.cuda.num_events}"

    def wait_event(self, event: str) -> None:
        self.cuda.told.append((self.name, f"wait for {event}"))


class Rows:
    aside: Mapping[str, Any] = MappingProxyType({})

    def __getitem__(self, row: int) -> Example:
        ids = np.arange(1, 4, dtype=np.int32)
        return Example((Encoded(ids, ids),))


def test_a_copy_is_made_beside_and_the_computation_waits_for_it_alone(monkeypatch):
    cuda = Cuda(monkeypatch)
    courier = Courier(CPU, cuda)
    ids = np.arange(1, 4, dtype=np.int32)
    first, second = (courier.send(pack([Encoded(ids, ids)], rows=(row,))) for row in (1, 2))
    batch = courier.receive(first)
    kept = [("main", "keep")] * len(batch.tensors())
    copies = [("beside", "copy (1,)"), ("beside", "event 1"), ("beside", "copy (2,)"), ("beside", "event 2")]
    assert cuda.told == [*copies, ("main", "wait for event 1"), *kept]
    assert batch.rows == (1,) and batch.known is not batch and len(kept) == 5
    assert second.arrived == "event 2"


def test_a_feed_sends_ahead_and_hands_over_in_order(monkeypatch):
    cuda = Cuda(monkeypatch)
    steps = Steps(np.full(6, 3), per_step=2, micro=1, world=1, seed=3)
    feed = Feed(Rows(), steps, rank=0, packing="packed", pad_id=0, courier=Courier(CPU, cuda))  # type: ignore[arg-type]
    alone = [[micro.batch.rows for micro in feed.step(number)] for number in range(3)]
    got = [[micro.batch for micro in step] for step in feed.steps(0, 3)]
    assert [[batch.rows for batch in step] for step in got] == alone
    copies = [what for stream, what in cuda.told if what.startswith("copy")]
    assert copies == [f"copy {rows}" for step in alone for rows in step]
    assert {stream for stream, what in cuda.told if what.startswith("copy")} == {"beside"}
    waits = [what for stream, what in cuda.told if what.startswith("wait")]
    assert waits == [f"wait for event {number}" for number in range(1, 7)], "each copy is waited for, in order, by what computes"


def test_a_copy_that_comes_out_wrong_in_its_trial_is_not_used(monkeypatch, capsys):
    cuda = Cuda(monkeypatch)
    assert courier_for(torch.device("cpu"), cuda) is None and not cuda.told
    moved = Batch.to
    monkeypatch.setattr(Batch, "to", lambda batch, device: moved(batch, CPU))
    assert isinstance(courier_for(torch.device("cuda"), cuda), Courier)
    monkeypatch.setattr(Batch, "to", lambda batch, device: moved(Batch(*(one * 0 for one in batch.tensors())), CPU))
    assert courier_for(torch.device("cuda"), cuda) is None
    assert "came out wrong in its trial" in capsys.readouterr().err
