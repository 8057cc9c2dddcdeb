"""A dead or stuck process is found and named, all end, and the last finished step is saved by the one that can."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from hone import log
from hone.commands import train
from hone.models.policy import Policy
from hone.training.checkpoints import checkpoint
from hone.training.processes import lost
from hone.training.processes.lost import is_lost, whom
from hone.training.processes.meeting import Card, Meeting, alone
from hone.training.processes.pulse import PULSE
from hone.training.processes.watch import Sign, Watch
from tests import worlds
from tests.runs import losses_of, write_run


def _fault_at_step_three(settings: str, fault: str) -> int:
    real = Policy.token_logprobs

    def token_logprobs(self: Policy, batch: Any, **more: Any) -> torch.Tensor:
        if PULSE.step == 3 and log.rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL) if fault == "dead" else time.sleep(600)
        return real(self, batch, **more)

    Policy.token_logprobs = token_logprobs  # type: ignore[method-assign]
    return train.main([settings])


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["stuck", "dead"])
def test_a_process_that_fails_is_told_and_the_last_step_is_saved(fault, tiny_run, tmp_path):
    settings = {**tiny_run, "gradient_accumulation_steps": 1, "max_steps": 5, "watchdog_timeout": 3}
    file, folder = write_run(settings, tmp_path / "run.yaml"), Path(tiny_run["output_dir"])
    with pytest.raises(AssertionError) as caught:  # neither process ends well
        worlds.fork(2, _fault_at_step_three, str(file), fault, beside=file)
    said = str(caught.value)
    assert checkpoint.newest_complete(folder) == (folder / "checkpoint-2", [])
    assert f"The last finished step is saved in {folder / 'checkpoint-2'}" in said
    if fault == "stuck":
        assert "the run cannot go on: rank 1 on " in said and "is at step 3, forward of its micro-batch 1 of 1" in said
        assert "its rows: rows row " in said and "time.sleep(600)" in said, "rows and stack"
        assert "token_logprobs" in (folder / "stacks-rank-1.txt").read_text()
    else:
        named = r"rank 1 on .*, process \d+, has gone or cannot be reached any more: step 3 could not be finished"
        assert re.search(named, said) or "has died" in said, "the work or the watch finds it out first"
    assert train.main([str(write_run({**settings, "gradient_accumulation_steps": 2}, file))]) == 0
    assert len(losses_of(folder)) == 5


def sign(
    rank: int, *, step: int = 4, place: int = 2, limited: bool = True, process: int | None = None, host: str = "far"
) -> Sign:
    return Sign(rank, host, os.getpid() if process is None else process, 1, step, place, "forward", limited)


def judged(tmp_path: Path, *seen: tuple[Sign, float, float]) -> str:
    """What a watch of 10 seconds says of signs, each with the seconds since its watch and its work were last seen to move."""
    watch = Watch(0, len(seen), 10, tmp_path, name_rows=str, rescue=str, name_lost=str)
    now = time.monotonic()
    watch._seen = {one.rank: one for one, _, _ in seen}
    watch._ages._seen = {one.rank: (one.ticks, now - lived) for one, lived, _ in seen}
    watch._still._seen = {one.rank: ((one.step, one.place), now - moved) for one, _, moved in seen}
    return watch._judge()


def test_who_is_behind_is_stuck_and_only_when_nobody_goes_on(tmp_path):
    assert judged(tmp_path, (sign(0), 0, 11), (sign(1, place=1), 0, 30)).startswith("rank 1 on far")
    assert judged(tmp_path, (sign(0), 0, 9), (sign(1, place=1), 0, 30)) == "", "rank 0 still goes on"
    both = judged(tmp_path, (sign(0), 0, 11), (sign(1), 0, 11))
    assert both.startswith("no process goes on: rank 0 on far") and "rank 1 on far" in both
    assert "rank 1" in judged(tmp_path, (sign(0), 0, 11), (sign(1, step=3, place=9), 0, 11)), "an earlier step is behind"


def test_saving_and_what_has_ended_are_not_held_against_a_process(tmp_path):
    assert judged(tmp_path, (sign(0, step=3, limited=False), 0, 99), (sign(1), 0, 99)) == ""
    assert judged(tmp_path, (Sign(0, "far", 1, 1, 3, 1, "ended", True, ended=True), 99, 99), (sign(1), 0, 1)) == ""


def test_a_process_without_a_sign_of_life_is_told_and_one_that_died_here_at_once(tmp_path):
    assert "rank 1 on far" in judged(tmp_path, (sign(0), 0, 11), (sign(1), 11, 11))
    assert "gives no sign of life" in judged(tmp_path, (sign(0, place=1), 0, 11), (sign(1), 11, 11))
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    here = os.uname().nodename
    assert (
        judged(tmp_path, (sign(0), 0, 0), (sign(1, process=child, host=here), 0, 0))
        == f"rank 1 on {here} (process {child}) has died"
    )


def test_a_lost_connection_is_known_by_its_words():
    assert is_lost(RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1"))
    assert not is_lost(RuntimeError("size mismatch"))


class Cards(Meeting):
    """A meeting of this process, rank 0 of "here", and others whose cards are these."""

    def __init__(self, *others: Card):
        self._cards = [Card(0, "here", "10.0.0.1", os.getpid(), {}), *others]
        super().__init__(None, self._cards[0], len(self._cards), called="rank", seconds=1)

    def cards(self) -> list[Card]:
        return self._cards


def test_an_address_is_told_as_ranks_and_one_that_has_ended_here_by_its_process(monkeypatch):
    monkeypatch.setattr(lost, "_DYING_SECONDS", 0.0)
    closed = "[gloo/transport/tcp/pair.cc:547] Connection closed by peer [10.0.0.2]:4711"
    far = [Card(number, "there", "10.0.0.2", 1, {}) for number in (2, 3)]
    beside, ended = Card(1, "here", "10.0.0.1", os.getpid(), {}), Card(1, "here", "10.0.0.1", 2**22 + 1, {})
    assert whom(closed, Cards(beside, *far)) == "one of ranks 2, 3 on there (10.0.0.2)"
    assert whom(closed, Cards(far[0])) == "rank 2 on there (10.0.0.2)"
    assert whom(closed.replace("0.2", "0.1"), Cards(ended, *far)) == f"rank 1 on here (10.0.0.1), process {2**22 + 1},"
    assert whom("NCCL error", Cards(ended, *far)).startswith("rank 1 on here"), "no address: who has ended here"
    assert whom("NCCL error", Cards(beside, *far)) == "another process"
    assert whom("Connection closed by peer [127.0.0.1]:9", Cards(beside)) == "rank 1 on here (10.0.0.1)", "the only other one"
    assert whom(closed, alone("rank")) == "another process"


def test_a_store_that_does_not_answer_is_not_waited_for(monkeypatch):
    class Silent(Cards):
        def cards(self) -> list[Card]:
            threading.Event().wait()
            return []

    monkeypatch.setattr(lost, "_ANSWER_SECONDS", 0.1)
    assert whom("Connection closed by peer [10.0.0.2]:4711", Silent()) == "another process"
