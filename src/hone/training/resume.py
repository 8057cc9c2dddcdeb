"""Resume: whether a run starts anew or goes on, from which checkpoint, and whether it still is the same run.

Does not know what a checkpoint holds; completeness is `checkpoint`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hone import log
from hone.config.train import TrainConfig
from hone.errors import CheckpointError
from hone.training import checkpoint
from hone.training.identity import Fingerprint, differences

_WEIGHTS = ("adapter_model.safetensors", "model.safetensors", "model.safetensors.index.json")


@dataclass(frozen=True)
class Start:
    """source: the checkpoint to go on from, None for a new run; stale: an earlier run's checkpoints, to be replaced.

    Where an older checkpoint is continued, the later ones are of a run that this one leaves: they must not be taken for its own.
    """

    source: Path | None
    stale: list[Path]


NOTHING = Start(None, [])
"""A new run with nothing before it."""


def choose_start(train: TrainConfig) -> Start:
    """LLaMA-Factory's rule: a named checkpoint; else the newest complete one of output_dir, unless it may be overwritten.

    Clears away what an interrupted save left, so one process alone calls it and tells the others.
    """
    output_dir, asked = Path(train.output_dir), train.resume_from_checkpoint
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
