"""A run that is disturbed: by another rank's bad rows, files that go, a clock that jumps, a scheduler that wants it to end."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hone import log
from hone.commands import train, train_run
from hone.config.environment import read_environment
from hone.models.policy import Policy
from hone.training import loop
from hone.training.processes.pulse import PULSE
from hone.training.processes.signals import StopRequest
from tests import worlds
from tests.runs import largest_difference, losses_of, weights_of, write_run


def _poisoned(settings: str) -> int:
    real = Policy.token_logprobs

    def token_logprobs(self: Policy, batch: Any, **more: Any) -> torch.Tensor:
        found = real(self, batch, **more)
        return found * float("nan") if PULSE.step == 2 and log.rank() == 1 else found

    Policy.token_logprobs = token_logprobs  # type: ignore[method-assign]
    return train.main([settings])


@pytest.mark.slow
def test_a_loss_that_is_no_number_on_one_process_ends_both_with_the_same_words(tiny_run, tmp_path):
    file = write_run({**tiny_run, "gradient_accumulation_steps": 1}, tmp_path / "run.yaml")
    with pytest.raises(AssertionError) as caught:
        worlds.fork(2, _poisoned, str(file), beside=file)
    said = re.findall(r"TrainingError: (the loss is nan: no weight was changed.*)", str(caught.value))
    assert len(said) == 2 and said[0] == said[1], caught.value
    assert said[0].count("rows row ") == 2, "the two rows of the process that met it"


def test_a_clock_that_jumps_and_a_cache_that_goes_change_nothing(tiny_run, tmp_path, monkeypatch):
    """The data are mapped from files that are removed in mid-run; the clock of the day goes back and forth by years."""
    straight = {**tiny_run, "output_dir": str(tmp_path / "straight")}
    assert train.main([str(write_run(straight, tmp_path / "straight.yaml"))]) == 0
    jumps, real, steps = itertools.cycle([1e8, -2e8, 3e9]), loop.take_step, itertools.count(1)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + next(jumps))

    def disturbed(*args: Any, **more: Any) -> Any:
        if next(steps) == 2:
            shutil.rmtree(tiny_run["tokenized_path"])
            shutil.rmtree(tiny_run["dataset_dir"])
        return real(*args, **more)

    monkeypatch.setattr(loop, "take_step", disturbed)
    changed = {**tiny_run, "output_dir": str(tmp_path / "out"), "save_strategy": "steps", "save_steps": 4}
    assert train.main([str(write_run(changed, tmp_path / "out.yaml"))]) == 0
    assert losses_of(tmp_path / "out") == losses_of(tmp_path / "straight")
    assert largest_difference(weights_of(tmp_path / "out"), weights_of(tmp_path / "straight")) == 0.0
    assert 0 < json.loads((tmp_path / "out" / "train_results.json").read_text())["train_runtime"] < 1000


def test_a_folder_that_turns_read_only_in_mid_run_is_told(tiny_run, tmp_path, monkeypatch):
    out, real, steps = Path(tiny_run["output_dir"]), loop.take_step, itertools.count(1)

    def disturbed(*args: Any, **more: Any) -> Any:
        if next(steps) == 3:
            shutil.rmtree(out)
            out.write_text("no folder any more, as nobody may write there who is not root")
        return real(*args, **more)

    monkeypatch.setattr(loop, "take_step", disturbed)
    with pytest.raises(train.HoneError, match=r"cannot be written: .*Earlier checkpoints are untouched"):
        train.main([str(write_run({**tiny_run, "save_strategy": "steps", "save_steps": 2}, tmp_path / "run.yaml"))])


def test_slurms_signal_is_heard():
    told: list[int] = []
    with StopRequest(told.append) as request:
        signal.raise_signal(signal.SIGUSR1)
        assert request.signal == signal.SIGUSR1 and told == [signal.SIGUSR1]


@pytest.mark.parametrize(("asked", "code", "told"), [(None, 143, 143), (85, 143, 85), (0, 138, 0), (85, 1, 1), (85, 0, 0)])
def test_the_exit_code_of_a_stopped_run_is_the_users(asked, code, told):
    run = SimpleNamespace(train=SimpleNamespace(stopped_exit_code=asked))
    assert train_run._told(run, code) == told


def test_torchrun_tells_how_often_it_would_start_a_process_again():
    variables = {"TORCHELASTIC_MAX_RESTARTS": "3", "TORCHELASTIC_RESTART_COUNT": "1"}
    assert read_environment(variables)[0].restarts_left == 2
    assert read_environment({})[0].restarts_left == 0
