"""Resume: whether a run starts anew or goes on, from which checkpoint, and whether it still is the same run.

Does not know what a checkpoint holds; completeness is `checkpoint`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hone import log
from hone.config.run import Run
from hone.config.train import TrainConfig
from hone.errors import CheckpointError
from hone.training.checkpoints import checkpoint
from hone.training.checkpoints.identity import Fingerprint, differences
from hone.training.planning.plan import Plan
from hone.training.progress import Progress

_WEIGHTS = ("adapter_model.safetensors", "model.safetensors", "model.safetensors.index.json")

_MAY_CHANGE = {"optimizer": None, "train": ("num_train_epochs", "max_steps", "max_grad_norm", "neftune_noise_alpha", "seed")}
"""Settings of the loop with which a run may be continued, by section; None for all that `require_same_run` lets pass."""


@dataclass(frozen=True)
class Start:
    """source: the checkpoint to go on from, None for a new run; stale: an earlier run's checkpoints, to be replaced.

    Where an older checkpoint is continued, the later ones are of a run that this one leaves: they must not be taken for its own.
    """

    source: Path | None
    stale: list[Path]


NOTHING = Start(None, [])
"""A new run with nothing before it."""


def require_free_output(run: Run) -> None:
    """Refuse an output_dir that is a model or an adapter which the run reads, or has one among its checkpoints.

    Its weights would be written over, or go with the checkpoints that a new run replaces. Raises: CheckpointError.
    """
    output = Path(run.train.output_dir).resolve()
    for key, place in _read_by(run):
        read = Path(place).expanduser().resolve()
        if read == output or (read.parent == output and checkpoint.is_named_so(read)):
            how = "is" if read == output else "holds"
            raise CheckpointError(
                f"output_dir: {run.train.output_dir} {how} the {key} of this run ({place}), which would be written over. "
                "Name another folder"
            )


def _read_by(run: Run) -> list[tuple[str, str]]:
    """(setting, folder or id) of every model and adapter the run reads."""
    found = [("model_name_or_path", run.model.model_name_or_path)]
    sections = {**vars(run.adapter), **vars(run.objective)}
    beside = [f"{name}_model{part}" for name in ("ref", "teacher", "reward") for part in ("", "_adapters")]
    for key in ("adapter_name_or_path", *beside):
        places = sections.get(key) or ()
        found += [(key, place) for place in ([places] if isinstance(places, str) else places)]
    return found


def choose_start(train: TrainConfig) -> Start:
    """LLaMA-Factory's rule: a named checkpoint; else the newest complete one of output_dir, unless it may be overwritten.

    Clears away what an interrupted save left, so one process alone calls it and tells the others.
    """
    output_dir, asked = Path(train.output_dir), train.resume_from_checkpoint
    _refuse_strangers(output_dir)
    checkpoint.sweep(output_dir)
    if isinstance(asked, str):
        source = _named(Path(asked))
        later = [folder for folder in checkpoint.checkpoints(output_dir) if checkpoint.step_of(folder) > _steps_done(source)]
        return Start(source, later)
    if asked is not True and (train.overwrite_output_dir or asked is False):
        return Start(None, checkpoint.checkpoints(output_dir))
    newest, problems = checkpoint.newest_complete(output_dir)
    for problem in problems:
        log.warn(f"passed over, not complete: {problem}")
    if newest is None and (asked is True or problems):
        raise CheckpointError(
            f"{output_dir} holds no complete checkpoint to continue. "
            "Write overwrite_output_dir: true to start anew, or another output_dir"
        )
    if newest is None:
        _refuse_to_overwrite(output_dir)
    return Start(newest, [])


def _steps_done(folder: Path) -> int:
    step = checkpoint.read_about(folder)["step"]
    assert isinstance(step, int), "a manifest's step is a number"
    return step


def _named(folder: Path) -> Path:
    problem = checkpoint.problem_of(folder)
    if problem:
        newest, _ = checkpoint.newest_complete(folder.parent)
        other = f"; the newest complete one beside it is {newest}" if newest else ""
        raise CheckpointError(f"resume_from_checkpoint: {folder} cannot be continued: {problem}{other}")
    return folder


def _refuse_to_overwrite(output_dir: Path) -> None:
    weights = [name for name in _WEIGHTS if (output_dir / name).exists()]
    if weights:
        raise CheckpointError(
            f"{output_dir} already holds a trained model ({weights[0]}) and no checkpoint to continue. "
            "Write overwrite_output_dir: true to replace it, or another output_dir"
        )


def _refuse_strangers(output_dir: Path) -> None:
    """Folders named like checkpoints that hold something else: saving or clearing away checkpoints would remove them."""
    if strangers := [folder for folder in checkpoint.checkpoints(output_dir) if not checkpoint.is_ours(folder)]:
        raise CheckpointError(
            f"{strangers[0]} is named like a checkpoint and holds none (neither {checkpoint.MANIFEST} nor {checkpoint.STATE}), "
            "so it is not removed. Move or rename it, or write another output_dir"
        )


def require_same_run(folder: Path, fingerprint: Fingerprint) -> None:
    """A checkpoint continues only the run that made it: data, order, model, adapter, objective and optimizer must be equal.

    Raises CheckpointError naming each setting that differs, what it was and what it is.
    """
    saved = checkpoint.read_about(folder).get("fingerprint")
    if not isinstance(saved, dict) or not all(isinstance(part, dict) for part in saved.values()):
        raise CheckpointError(
            f"{folder} was saved by an earlier version of hone, which noted its settings in another way. Continue it with that "
            "version, or start anew: overwrite_output_dir: true, or another output_dir"
        )
    if lines := differences(saved, fingerprint):
        rows = "\n".join(f"  {line}" for line in lines)
        raise CheckpointError(
            f"{folder} belongs to another run; continuing it would not give what either says:\n{rows}\n"
            "Put the settings back, or start anew: overwrite_output_dir: true, or another output_dir"
        )


def changes(source: Path, settings: str) -> list[str]:
    """Each setting of the loop that is another now than when `source` was saved, as "learning_rate: 0.002 there, 1e-06 now".

    settings: the run's resolved settings, as they are kept beside a checkpoint.
    """
    there, now = _settings_of(source), yaml.safe_load(settings)
    told = []
    for section, names in _MAY_CHANGE.items():
        old, new = there.get(section, {}), now[section]
        for name in names or dict.fromkeys((*old, *new)):
            if old and old.get(name) != new.get(name):
                told.append(f"{name}: {_said(old.get(name))} there, {_said(new.get(name))} now")
    return told


def _settings_of(folder: Path) -> dict[str, Any]:
    """The settings a run left in a folder; none where they are not there or of another shape."""
    file = folder / "run.yaml"
    found = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else None
    return found if isinstance(found, dict) else {}


def _said(value: Any) -> str:
    return "left out" if value is None else str(value)


def told_finished(run: Run, plan: Plan, start: Start, settings: str) -> str:
    """What to say of a run with nothing left to do: its model and all it was asked to leave stand in output_dir; else ""."""
    folder = Path(plan.output_dir)
    evaluates = run.train.do_eval and plan.num_eval_rows
    wanted = ["trainer_state.json", "train_results.json", *["eval_results.json"] * bool(evaluates)]
    wanted += ["training_loss.png"] * run.track.plot_loss + ["predict_results.json"] * run.train.do_predict
    has_weights = any((folder / name).is_file() for name in _WEIGHTS)
    if start.source is None or start.stale or not has_weights or not all((folder / name).is_file() for name in wanted):
        return ""
    if _settings_of(folder).get("train", {}).get("load_best_model_at_end") != run.train.load_best_model_at_end:
        return ""  # another of the checkpoints becomes the model
    progress = Progress.from_state((folder / "trainer_state.json").read_text(encoding="utf-8"))
    ended_early = 0 < (run.train.early_stopping_steps or 0) <= progress.stale_evaluations
    if progress.step != _steps_done(start.source) or (progress.step < plan.num_steps and not ended_early):
        return ""
    more = "early_stopping_steps" if ended_early else "max_steps" if run.train.max_steps > 0 else "num_train_epochs"
    differing = changes(start.source, settings)
    without_effect = f" ({', '.join(differing)}: without effect)" if differing else ""
    return (
        f"{folder} is finished at step {progress.step} of {plan.num_steps}: nothing is left to do{without_effect}; raise {more}, "
        "or overwrite_output_dir: true starts anew"
    )
