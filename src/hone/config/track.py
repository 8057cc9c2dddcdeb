"""Settings of following a run: trackers and plots.

Does not know how they are told.
"""

from __future__ import annotations

from typing import Literal

from hone.config.section import Section, knob


class TrackConfig(Section):
    """Who is told how the run goes."""

    report_to: tuple[Literal["tensorboard", "wandb", "mlflow", "swanlab"], ...] = knob(
        (),
        "Trackers that follow the run: tensorboard, wandb, mlflow, swanlab, with commas between them; none for none of them.",
        example="tensorboard",
    )
    run_name: str | None = knob(None, "Name of the run in the trackers; output_dir where left out.", example="llama3-lora-1")
    logging_dir: str | None = knob(
        None,
        "Folder of TensorBoard's files and of MLflow's database (mlflow.db, unless MLFLOW_TRACKING_URI names another place); "
        "output_dir/runs where left out.",
        level="advanced",
        example="logs",
    )
    plot_loss: bool = knob(False, "Draws training_loss.png into output_dir at the end. Needs matplotlib.")
    swanlab_project: str = knob("llamafactory", "Project of the run in SwanLab.", level="advanced")
    swanlab_workspace: str | None = knob(None, "Workspace in SwanLab; your own where left out.", level="advanced")
    swanlab_run_name: str | None = knob(None, "Name of the run in SwanLab; run_name where left out.", level="advanced")
    swanlab_mode: Literal["cloud", "local"] = knob(
        "cloud", "Whether SwanLab keeps the run in its cloud or on this machine.", level="advanced"
    )
    swanlab_api_key: str | None = knob(
        None,
        "Key for SwanLab's cloud. `swanlab login` keeps it out of your files; it is never written to a log or a saved file.",
        level="advanced",
        secret=True,
    )
    swanlab_logdir: str | None = knob(None, "Folder of SwanLab's own files.", level="advanced")
