"""Trackers' own words: the project, and what each tracker is told beside the numbers.

Does not know accelerate, which opens them, nor what is tracked.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hone.config.environment import Environment
from hone.config.run import Run
from hone.config.track import TrackConfig
from hone.config.tree import to_dict


def tracker_folder(run: Run) -> str:
    """Where trackers that write files of their own put them."""
    return run.track.logging_dir or str(Path(run.train.output_dir) / "runs")


def project_of(track: TrackConfig, environment: Environment) -> str:
    """The project's name, one for all trackers of a run: SwanLab's where it is one of them, else WANDB_PROJECT."""
    return track.swanlab_project if "swanlab" in track.report_to else environment.wandb_project


def flat_settings(run: Run) -> dict[str, float | str | bool]:
    """The run's settings for a tracker's table: section.key to a number, a text or a boolean; no secrets."""
    sections = to_dict(run)
    rows = {f"{section}.{key}": value for section, keys in sections.items() for key, value in keys.items()}
    return {name: value if isinstance(value, int | float | str) else str(value) for name, value in rows.items()}


def tracker_options(track: TrackConfig, run_name: str, folder: str) -> dict[str, dict[str, Any]]:
    """What each tracker's own `init` is told, by tracker. folder: for the files of the run's trackers.

    Also tells the environment what a tracker reads only there: SwanLab its key, MLflow its place where the user named none.
    """
    if track.swanlab_api_key:
        os.environ["SWANLAB_API_KEY"] = track.swanlab_api_key
    if "mlflow" in track.report_to and not os.environ.get("MLFLOW_TRACKING_URI"):
        # Left alone it writes into the working directory, and refuses to where a folder mlruns of its older versions is.
        Path(folder).mkdir(parents=True, exist_ok=True)
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{Path(folder).resolve()}/mlflow.db"
    swanlab = {
        "experiment_name": track.swanlab_run_name or run_name,
        "workspace": track.swanlab_workspace,
        "mode": track.swanlab_mode,
        "logdir": track.swanlab_logdir,
    }
    return {
        "wandb": {"name": run_name},
        "mlflow": {"run_name": run_name},
        "swanlab": {name: value for name, value in swanlab.items() if value is not None},
    }
