"""What trackers are told follows from the settings."""

from __future__ import annotations

import os

import pytest

from hone.config.environment import read_environment
from hone.config.use import TrackConfig
from hone.training.trackers import project_of, tracker_options


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
