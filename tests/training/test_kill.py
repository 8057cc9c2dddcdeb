"""kill -9 at random moments, also during a save: no finished checkpoint is lost, the run always goes on, and ends the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hone.commands import train
from hone.training.processes import signals
from hone.training.processes.signals import StopRequest, saying
from tests import worlds
from tests.runs import largest_difference, weights_of, write_run

KILLS = 20


@pytest.mark.slow
def test_twenty_kills(tiny_run, tmp_path):
    settings = {**tiny_run, "save_strategy": "steps", "save_steps": 1, "max_steps": 60, "lora_dropout": 0.1}
    settings = {**settings, "gradient_accumulation_steps": 1, "disable_shuffling": False}
    straight = {**settings, "output_dir": str(tmp_path / "straight"), "save_strategy": "no"}
    straight.pop("save_steps")
    assert train.main([str(write_run(straight, tmp_path / "straight.yaml"))]) == 0

    path, folder = write_run(settings, tmp_path / "run.yaml"), Path(settings["output_dir"])
    command = [sys.executable, str(Path(__file__).with_name("nursery.py")), str(path), str(folder), str(KILLS), "3"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=400, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert result.returncode == 0, result.stderr
    *trials, end = map(json.loads, result.stdout.splitlines())
    assert len(trials) == KILLS
    assert sum(trial["killed"] for trial in trials) >= KILLS // 2, "too few runs were alive to be killed"
    for trial in trials:
        assert set(trial["before"]) <= set(trial["after"]), "a finished checkpoint was lost"
        if trial["said"]:
            assert f"checkpoint-{max(trial['before'])} " in trial["said"][0]
    assert end["finished"] == 0, end["log"]
    assert largest_difference(weights_of(folder), weights_of(tmp_path / "straight")) == 0.0


def children(process: int) -> list[int]:
    """The processes that `process` started."""
    return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "world"), [(signal.SIGINT, 1), (signal.SIGTERM, 2)])
def test_a_polite_stop_saves_and_says_so(number, world, tiny_run, tmp_path):
    settings = {**tiny_run, "save_strategy": "no", "max_steps": 50000}
    path = write_run(settings, tmp_path / "run.yaml")
    process = subprocess.Popen(
        [sys.executable, "-m", "hone", "train", str(path)],
        stderr=subprocess.PIPE,
        text=True,
        env=worlds.launched(world) if world > 1 else None,
    )
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if "step 3/" in line:
            for one in (process.pid, *children(process.pid)):  # as a scheduler does that ends a job
                os.kill(one, number)
    assert process.wait(timeout=60) == 128 + number, "".join(said)
    assert "Traceback" not in "".join(said)
    saved = list(Path(settings["output_dir"]).glob("checkpoint-*"))
    assert len(saved) == 1 and str(saved[0]) in "".join(said)
    if world > 1:  # one process goes on with the same sequences a step
        settings["gradient_accumulation_steps"] *= 2
    more = {**settings, "max_steps": int(saved[0].name.split("-")[1]) + 1}
    assert train.main([str(write_run(more, path))]) == 0


def test_a_signal_is_heard_once_and_a_later_one_acts_as_ever(capsys, monkeypatch):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background ignores it
    try:
        _interrupt_three_times(capsys, monkeypatch)
    finally:
        signal.signal(signal.SIGINT, before)


def _interrupt_three_times(capsys, monkeypatch):
    with pytest.raises(KeyboardInterrupt), StopRequest(saying("the run saves")) as request:
        for _ in range(3):
            signal.raise_signal(signal.SIGINT)
        assert request.signal == signal.SIGINT
        assert capsys.readouterr().err.count("SIGINT received: the run saves; once more ends it now") == 1
        monkeypatch.setattr(signals, "ECHO_SECONDS", 0.0)
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
