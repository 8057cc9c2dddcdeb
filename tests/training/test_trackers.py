"""What trackers are told follows from the settings."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hone.commands import train
from hone.config.environment import read_environment
from hone.config.track import TrackConfig
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
    options = tracker_options(track, "r", "runs")
    assert options["swanlab"] == {"experiment_name": "r", "workspace": "w", "mode": "local", "logdir": "l"}
    assert options["wandb"] == {"name": "r"} and options["mlflow"] == {"run_name": "r"}
    assert os.environ["SWANLAB_API_KEY"] == "k"
    assert tracker_options(TrackConfig(swanlab_run_name="n"), "r", "runs")["swanlab"] == {"experiment_name": "n", "mode": "cloud"}


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


@pytest.mark.parametrize("own", [None, "sqlite:////elsewhere.db"])
def test_mlflow_keeps_a_database_beside_the_run_unless_it_was_told_a_place(own, monkeypatch: pytest.MonkeyPatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", own or "")
    tracker_options(TrackConfig(report_to=("mlflow",)), "r", str(tmp_path / "runs"))
    assert os.environ["MLFLOW_TRACKING_URI"] == (own or f"sqlite:///{tmp_path}/runs/mlflow.db")
    assert (tmp_path / "runs").is_dir() == (own is None)
    tracker_options(TrackConfig(report_to=("tensorboard",)), "r", str(tmp_path / "other"))
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("own", [False, True])
def test_mlflow_gets_the_losses_and_the_settings(own, tiny_run, tmp_path, monkeypatch: pytest.MonkeyPatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/own.db" if own else "")
    settings = {**tiny_run, "report_to": "mlflow", "max_steps": 3, "run_name": "first"}
    assert train.main([str(write_run(settings, tmp_path / "run.yaml"))]) == 0
    place = tmp_path / "own.db" if own else Path(settings["output_dir"]) / "runs" / "mlflow.db"
    client = mlflow.MlflowClient(f"sqlite:///{place}")
    (experiment,) = client.search_experiments(filter_string="name = 'llamafactory'")
    (run,) = client.search_runs([experiment.experiment_id])
    losses = [metric.value for metric in sorted(client.get_metric_history(run.info.run_id, "train/loss"), key=lambda m: m.step)]
    assert losses == pytest.approx(losses_of(settings["output_dir"]), rel=1e-6) and len(losses) == 3
    assert run.info.run_name == "first" and run.info.status == "FINISHED"
    assert run.data.params["adapter.kind"] == "lora" and run.data.params["train.max_steps"] == "3"
    assert not (tmp_path / "mlruns").exists() and not (tmp_path / "mlflow.db").exists()


def test_a_tracker_that_is_not_installed_is_an_error():
    if find_spec("wandb"):
        pytest.skip("wandb is installed here; the error shows where it is not")
    with pytest.raises(MissingExtra, match=r"report_to: wandb needs the package wandb: pip install wandb$"):
        require_trackers(("wandb",))
