"""One process makes a thing and the others wait while it lives; who hangs, and folders without locks, are got over.

Seconds are made short here; each test says which.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from filelock import FileLock

from hone.data import turn as turns
from hone.data.turn import turn


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    """A heart beats every 0.05 s and is taken for still after 0.5 s."""
    for name, seconds in {"BEAT": 0.05, "LOOK": 0.02, "SILENT": 0.5}.items():
        monkeypatch.setattr(turns, f"_{name}_SECONDS", seconds)


def make(name: Path, seconds: float, found: list[tuple[bool, float]]) -> None:
    with turn(name, "makes it") as alone:
        time.sleep(seconds)
        found.append((alone, time.monotonic()))


def both(name: Path, seconds: float) -> list[tuple[bool, float]]:
    """Two makers, the second a little later."""
    found: list[tuple[bool, float]] = []
    threads = [threading.Thread(target=make, args=(name, seconds, found)) for _ in range(2)]
    for thread in threads:
        thread.start()
        time.sleep(0.1)
    for thread in threads:
        thread.join()
    return found


def test_the_second_waits_far_longer_than_a_silence_while_the_first_lives(tmp_path):
    (first, before), (second, after) = both(tmp_path / "it", 1.5)
    assert first and second and after - before >= 1.4
    assert not (tmp_path / ".it.heart").exists()


def test_who_holds_the_lock_and_hangs_is_got_over(tmp_path, capsys):
    (tmp_path / ".it.heart").write_text("process 7 on far-away beat 12")
    found: list[tuple[bool, float]] = []
    with FileLock(tmp_path / ".it.lock"):
        make(tmp_path / "it", 0, found)
    assert [alone for alone, _ in found] == [False]
    assert "process 7 on far-away gave no sign of life for 0 s while it makes it" in capsys.readouterr().err


def test_without_locks_the_second_still_waits_for_the_first(tmp_path, monkeypatch):
    def refuse(self: FileLock, timeout: float) -> None:
        raise NotImplementedError("this file system has no locks")

    monkeypatch.setattr(turns.FileLock, "acquire", refuse)
    (first, before), (second, after) = both(tmp_path / "it", 1.0)
    assert not first and not second and after - before >= 0.9
