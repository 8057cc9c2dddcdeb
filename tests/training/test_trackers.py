"""What trackers are told follows from the settings."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hone.commands import train
from hone.config.environment import read_environment
from hone.config.use import TrackConfig
from hone.errors import MissingExtra
from hone.training.device import require_trackers
from hone.training.trackers import project_of, tracker_options
from tests.runs import losses_of, write_run


def test_the_project_is_wandbs_or_swanlabs():
    environment, _ = read_environment({"WANDB_PROJECT": "p"})
    assert project_of(TrackConfig(report_to=("wandb",), swanlab_project="s"), environment) == "p"
    assert project_of(TrackConfig(report_to=("wandb", "swanlab"), swanlab_project="s"), environment) == "s"
    assert project_of(TrackConfig(), read_environment({})[0]) == "llamafactory"


def test_swanlab_is_told_what_was_set_and_gets_its_key(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SWANLAB_API_KEY", "old")
    track = TrackConfig(swanlab_workspace="w", swanlab_mode="local", swanlab_logdir="l", swanlab_api_key="k")
    options = tracker_options(track, "r")
    assert options["swanlab"] == {"experiment_name": "r", "workspace": "w", "mode": "local", "logdir": "l"}
    assert options["wandb"] == {"name": "r"} and options["mlflow"] == {"run_name": "r"}
    assert os.environ["SWANLAB_API_KEY"] == "k"
    assert tracker_options(TrackConfig(swanlab_run_name="n"), "r")["swanlab"] == {"experiment_name": "n", "mode": "cloud"}


def test_tensorboard_gets_the_losses_and_the_settings(tiny_run, tmp_path):
    settings = {**tiny_run, "report_to": "tensorboard", "max_steps": 3, "logging_dir": str(tmp_path / "events")}
    assert train.main([str(write_run(settings, tmp_path / "run.yaml"))]) == 0
    files = list((tmp_path / "events").rglob("events.out.tfevents.*"))
    found: dict[str, list[float]] = {}
    for path in files:
        events = EventAccumulator(str(path))
        events.Reload()
        for tag in events.Tags()["scalars"]:
            found.setdefault(tag, []).extend(event.value for event in events.Scalars(tag))
    assert found["train/loss"] == pytest.approx(losses_of(settings["output_dir"]), rel=1e-6)
    assert len(found["train/learning_rate"]) == 3


def test_a_tracker_that_is_not_installed_is_an_error():
    if find_spec("wandb"):
        pytest.skip("wandb is installed here; the error shows where it is not")
    with pytest.raises(MissingExtra, match=r'report_to: wandb needs the package wandb: pip install "hone-llm\[track\]"'):
        require_trackers(("wandb",))
