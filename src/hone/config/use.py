"""Settings of using a model: sampling, export, serving; and of following a run: trackers and plots.

Does not know how any of it is done.
"""

from __future__ import annotations

from typing import Literal

from hone.config.section import Section, knob


class GenerateConfig(Section):
    """How answers are drawn."""

    do_sample: bool = knob(True, "Draw at random; false takes the likeliest token.")
    temperature: float = knob(0.95, "Below 1 sharper, above 1 wilder.", gt=0)
    top_p: float = knob(0.7, "Draw from the likeliest tokens of this total probability.", gt=0, le=1)
    top_k: int = knob(50, "Draw from this many likeliest tokens; 0 for all.", ge=0)
    num_beams: int = knob(1, "Beams of a beam search.", gt=0)
    max_length: int = knob(1024, "Longest prompt and answer together; used where max_new_tokens is 0.", unit="tokens", gt=0)
    max_new_tokens: int = knob(1024, "Longest answer.", unit="tokens", ge=0)
    repetition_penalty: float = knob(1.0, "Above 1 discourages repeats.", gt=0)
    length_penalty: float = knob(1.0, "Beam search: above 0 favours long answers.")
    skip_special_tokens: bool = knob(True, "Leave special tokens out of the answer.")


class ExportConfig(Section):
    """Where and how a merged model is written."""

    export_dir: str | None = knob(None, "Folder to write.")
    export_size: int = knob(5, "Largest file.", unit="GB", gt=0)
    export_device: Literal["cpu", "auto"] = knob("cpu", "Where merging is computed.")


class ServeConfig(Section):
    """Which engine answers."""

    infer_backend: Literal["huggingface"] = knob("huggingface", "Engine.")
    infer_dtype: Literal["auto", "float16", "bfloat16", "float32"] = knob("auto", "Number format of the weights in use.")


class TrackConfig(Section):
    """Who is told how the run goes."""

    report_to: tuple[str, ...] = knob((), "Trackers: tensorboard, wandb, mlflow, swanlab.")
    run_name: str | None = knob(None, "Name of the run.")
    logging_dir: str | None = knob(None, "Folder of TensorBoard's files; output_dir/runs where left out.")
    plot_loss: bool = knob(False, "Draw training_loss.png.")
