"""Members of a meeting find each other, or hear who is missing, unlike or gone. Threads stand for processes."""

from __future__ import annotations

import functools
import gc
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import yaml

from hone.errors import TrainingError
from hone.inference.servers.started import free_port
from hone.training.processes import meeting as meetings
from hone.training.processes import preflight
from hone.training.processes.address import holder_of, interface_of, is_here, own_address, require_free, require_reachable
from hone.training.processes.differences import differing
from hone.training.processes.meeting import JointError, Meeting, Member, meet


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    """Hearts beat every 0.05 s, and are taken for still after 0.6 s."""
    monkeypatch.setattr(meetings, "_BEAT_SECONDS", 0.05)
    monkeypatch.setattr(meetings, "_SILENT_SECONDS", 0.6)


def gather(count: int, job: Callable[[int, int], object]) -> list[object]:
    """What `job(number, port)` gives or raises for each of `count` members at once."""
    port, found = free_port(), [None] * count

    def run(number: int) -> None:
        try:
            found[number] = job(number, port)
        except Exception as problem:
            found[number] = problem

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return found


def come(number: int, port: int, *, count: int, seconds: float = 10, about: dict[str, str] | None = None) -> Meeting:
    member = Member("rank", number, count, about or {})
    return meet(member, address="127.0.0.1", port=port, seconds=seconds, judge=differing)


def test_all_come_and_know_each_other():
    met = gather(3, functools.partial(come, count=3))
    assert [[card.number for card in meeting.cards()] for meeting in met] == [[0, 1, 2]] * 3


def test_who_did_not_come_is_named_to_all():
    found = gather(2, functools.partial(come, count=4, seconds=1))
    assert all(isinstance(error, JointError) for error in found)
    assert "ranks 2, 3 did not come within 1 s (join_timeout); 2 of 4 came" in str(found[0])
    assert str(found[0]) == str(found[1])


def test_what_differs_is_named_with_the_value_there_and_here():
    found = gather(3, lambda number, port: come(number, port, count=3, about={"torch": "2.13" if number < 2 else "2.12"}))
    assert f"torch: 2.13 on rank 0 ({socket.gethostname()} (127.0.0.1)), 2.12 on" in str(found[1]) and "rank 2" in str(found[1])


def test_the_store_outlives_the_meeting():
    (meeting,) = gather(1, functools.partial(come, count=1))
    port = meeting.store.port
    del meeting
    gc.collect()
    require_reachable("127.0.0.1", port, 0, "rank 0")


def test_two_of_one_number_are_told_apart(monkeypatch):
    monkeypatch.setattr(meetings, "_CLAIM_SECONDS", 0.5)
    found = gather(3, lambda number, port: come(min(number, 1), port, count=3, seconds=3))
    (taken,) = [error for error in found if "is taken by" in str(error)]
    assert f"rank 1 is taken by {socket.gethostname()} (127.0.0.1), process {os.getpid()}" in str(taken)


def test_nobody_is_hurried_who_lives_and_who_is_silent_is_named():
    def work(number: int, port: int) -> object:
        meeting = come(number, port, count=3)
        if number == 1:
            time.sleep(1.5)  # far longer than a silence
        if number == 2:
            time.sleep(1.5)
        meeting.wait("the data")
        if number == 2:
            meeting.rest()
            return time.sleep(2.5)
        return meeting.wait("the end")

    first, second, _ = gather(3, work)
    assert "rank 2 on" in str(first) and "gave no sign of life" in str(first) and str(second) == str(first)


def test_what_fails_in_the_first_collective_is_told_with_the_rank():
    def work(number: int, port: int) -> None:
        with come(number, port, count=2).within("the first sum", "Look at the network"):
            if number:
                raise RuntimeError("Gloo connectFullMesh failed with timed out connecting\nand more")

    nothing, error = gather(2, work)
    assert nothing is None and isinstance(error, TrainingError)
    assert str(error).startswith("the first sum failed for rank 1 on") and "timed out connecting. Look at" in str(error)


def test_settings_are_compared_and_places_are_not():
    def work(number: int, port: int) -> None:
        tree = {"train": {"bf16": number == 0, "learning_rate": 0.01}, "data": {"dataset_dir": f"/disk{number}"}}
        flat = preflight.flat(yaml.safe_dump(tree))
        member = Member("rank", number, 2, {"settings": str(flat)}, json.dumps(flat))
        meet(member, address="127.0.0.1", port=port, seconds=10, judge=preflight.judge)

    for error in gather(2, work):
        assert str(error).count("\n") == 2 and "bf16: True on rank 0" in str(error) and "write bf16: true or false" in str(error)


def test_other_data_are_named_by_set():
    def work(number: int, port: int) -> None:
        preflight.same_data(come(number, port, count=2), {"rows of a": "1", "rows of b": str(number)})

    assert all("rows of b: 0 on rank 0" in str(error) and "rows of a" not in str(error) for error in gather(2, work))


@dataclass
class Summed:
    """A device whose sum is given."""

    sum: float
    rank: int = 1
    world: int = 4
    data_world: int = 4

    def total(self, values: list[float]) -> list[float]:
        return [self.sum]


def test_a_sum_that_is_wrong_is_told():
    """Of 1 to 4 it is 10; where two processes share their batches, each pair counts once."""
    preflight.prove_sum(Summed(10.0))
    preflight.prove_sum(Summed(5.0, data_world=2))
    for wrong, parts, wanted in ((9.0, 4, 10), (10.0, 2, 5)):
        with pytest.raises(TrainingError, match=f"over 4 processes gave {wrong:g}, not {wanted}"):
            preflight.prove_sum(Summed(wrong, data_world=parts))


def test_who_holds_a_port_is_named():
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        assert holder_of(port).startswith(f"process {os.getpid()} (")
        with pytest.raises(TrainingError, match=rf"port {port} of .* is in use by process {os.getpid()}"):
            require_free(port)
    require_free(free_port())


def test_addresses():
    assert is_here("127.0.0.1") and not is_here("192.0.2.1")
    assert own_address("127.0.0.1") == "127.0.0.1" and interface_of("127.0.0.1") == "lo"
    with pytest.raises(TrainingError, match=r"MASTER_ADDR no-such\.invalid cannot be resolved here"):
        require_reachable("no-such.invalid", 1, 0, "torchrun")
    with pytest.raises(TrainingError, match=r"nobody listens at 127\.0\.0\.1:.*: machine 0 has not started"):
        require_reachable("127.0.0.1", free_port(), 0, "machine 0")
