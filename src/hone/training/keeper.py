"""Keeper: a run's state into a checkpoint folder and back, weights, optimizer, schedule, random numbers and progress alike.

Does not know when to save; how a folder appears whole is `checkpoint`'s.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hone import log
from hone.errors import CheckpointError
from hone.training import checkpoint
from hone.training.checkpoint import STATE
from hone.training.device import Device
from hone.training.feed import Feed
from hone.training.plan import Plan
from hone.training.progress import Progress
from hone.training.randomness import random_state, restore_random_state
from hone.training.rollouts import RolloutFeed

OPTIMIZER, SCHEDULER, SCALER, FEED = "optimizer.pt", "scheduler.pt", "scaler.pt", "feed.pt"


_WEIGHTS = (
    "model*.safetensors", "model.safetensors.index.json", "config.json", "generation_config.json", "adapter_*", "value_head.*",
    "modules.json", "score_head.json",
)  # fmt: skip
"""Files of a trained model's own, in output_dir."""


@dataclass(frozen=True)
class Parts:
    """What a checkpoint holds. save_weights, load_weights: of the trained module, to and from a folder; feed: of the batches."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LambdaLR
    save_weights: Callable[[Path], None]
    load_weights: Callable[[Path], None]
    feed: Feed | RolloutFeed


@dataclass(frozen=True)
class Moving:
    """What going on needs beside the weights. optimizer: by weights' names; random: by rank; feed: of the batches."""

    optimizer: dict[str, Any]
    random: list[dict[str, Any]]
    feed: dict[str, Any]


class Keeper:
    """Saves and restores one run's checkpoints in `plan.output_dir`.

    settings: the run's resolved settings as text, kept beside the state; stale: checkpoints of an earlier run that this one
    replaces: they go when the first new one is complete.
    """

    def __init__(
        self, parts: Parts, plan: Plan, device: Device, *, settings: str, limit: int | None, only_model: bool, stale: list[Path]
    ):
        self._parts, self._plan, self._device = parts, plan, device
        self._settings, self._limit, self._only_model, self._stale = settings, limit, only_model, stale
        self.folder = Path(plan.output_dir)
        self.last: Path | None = None

    def path(self, step: int) -> Path:
        """checkpoint-N of a step."""
        return self.folder / f"checkpoint-{step}"

    def save(self, progress: Progress, *, to_go_on: bool = False) -> Path:
        """Write the checkpoint of the step just done; all processes call it, rank 0 writes.

        to_go_on: the run stops here, so the optimizer's state is written also under save_only_model.
        """
        target, moving = self.path(progress.step), None
        if to_go_on or not self._only_model:
            states = self._device.gather(random_state())
            optimizer = self._device.optimizer_state(self._parts.module, self._parts.optimizer)
            moving = Moving(optimizer, states, self._parts.feed.state(progress.step))

        def write() -> None:
            about = {"fingerprint": self._plan.fingerprint, "step": progress.step}
            checkpoint.write_complete(target, partial(self._write, progress, moving), about=about)
            with checkpoint.writing(self.folder):
                self._tidy(target, progress.best_checkpoint)

        self._on_main(write)
        self.last = target
        return target

    def _on_main(self, write: Callable[[], None]) -> None:
        """Call `write` on rank 0, with whole weights; CheckpointError on all where it could not."""
        failure = ""
        with self._device.whole(self._parts.module):
            if self._device.is_main:
                try:
                    write()
                except CheckpointError as problem:
                    failure = str(problem)
        if failure := self._device.gather(failure)[0]:
            raise CheckpointError(failure)

    def _write(self, progress: Progress, moving: Moving | None, folder: Path) -> None:
        plan = self._plan
        self._parts.save_weights(folder)
        state = progress.to_state(num_steps=plan.num_steps, steps_per_epoch=plan.steps_per_epoch, num_epochs=plan.num_epochs)
        (folder / STATE).write_text(dumps(state), encoding="utf-8")
        (folder / "run.yaml").write_text(self._settings, encoding="utf-8")
        if moving is None:
            return
        torch.save(moving.optimizer, folder / OPTIMIZER)
        torch.save(self._parts.schedule.state_dict(), folder / SCHEDULER)
        if (scaler := self._device.scaler_state()) is not None:
            torch.save(scaler, folder / SCALER)
        if moving.feed:
            torch.save(moving.feed, folder / FEED)
        for rank, random_numbers in enumerate(moving.random):
            torch.save(random_numbers, folder / _random_file(rank, len(moving.random)))

    def _tidy(self, newest: Path, best: str | None) -> None:
        for folder in self._stale:
            if folder.exists() and folder != newest:
                checkpoint.discard(folder)
        self._stale = []
        checkpoint.prune(self.folder, self._limit, best)

    def restore(self, folder: Path) -> Progress:
        """Put a complete checkpoint's state back into the parts; returns its progress."""
        missing = [name for name in (OPTIMIZER, SCHEDULER) if not (folder / name).is_file()]
        if missing:
            raise CheckpointError(
                f"{folder} has no {' and no '.join(missing)}: it was saved with save_only_model: true and cannot be continued. "
                "Train on from its weights (adapter_name_or_path or model_name_or_path), or resume from another checkpoint"
            )
        progress = Progress.from_state((folder / STATE).read_text(encoding="utf-8"))
        if progress.best_checkpoint:  # it lies beside this one, wherever the folder of both is by now
            progress.best_checkpoint = str(folder.parent / Path(progress.best_checkpoint).name)
        if progress.step > self._plan.num_steps:
            raise CheckpointError(
                f"{folder} is {progress.step} steps old and this run ends after {self._plan.num_steps}: max_steps or "
                "num_train_epochs is less than what is done; raise it, resume from an older checkpoint, or start anew"
            )
        self._load_weights(folder)
        self._load_keeping_settings(folder)
        if (folder / SCALER).is_file():
            self._device.load_scaler_state(_load(folder / SCALER))
        self._parts.feed.restore(_load(folder / FEED) if (folder / FEED).is_file() else {})
        self._restore_random(folder)
        self.last = folder
        return progress

    def _restore_random(self, folder: Path) -> None:
        if len(list(folder.glob("rng_state*.pth"))) == self._device.world:
            restore_random_state(_load(folder / _random_file(self._device.rank, self._device.world)))
        else:
            log.info(f"{folder} was saved by another number of processes: dropout draws new numbers, the data go on as they were")

    def load_best(self, best: str) -> None:
        """Put the best checkpoint's weights back into the module."""
        self._load_weights(Path(best))

    def _load_weights(self, folder: Path) -> None:
        self._device.load_whole(self._parts.module, partial(self._parts.load_weights, folder))

    def _load_keeping_settings(self, folder: Path) -> None:
        """Moments and the schedule's step come from the checkpoint; rates, decay and the like from this run's settings.

        The schedule would otherwise bring its old numbers back, and a changed learning_rate would do nothing.
        """
        optimizer, schedule = self._parts.optimizer, self._parts.schedule
        peaks = list(schedule.base_lrs)
        self._device.load_optimizer_state(self._parts.module, optimizer, _load(folder / OPTIMIZER))
        schedule.load_state_dict(_load(folder / SCHEDULER))
        schedule.base_lrs = peaks
        rates = [peak * factor(schedule.last_epoch) for peak, factor in zip(peaks, schedule.lr_lambdas, strict=True)]
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        schedule._last_lr = rates

    def finish(self) -> None:
        """Write the trained weights into output_dir itself, so that a half-written file never stands there."""
        self._on_main(self._write_final)

    def _write_final(self) -> None:
        aside = self.folder / ".final.writing"
        shutil.rmtree(aside, ignore_errors=True)
        checkpoint.write_complete(aside, self._parts.save_weights, called=f"the model of {self.folder}")
        kept = {path.name for path in aside.iterdir()}
        for path in [path for path in aside.rglob("*") if path.is_file() and path.name != checkpoint.MANIFEST]:
            target = self.folder / path.relative_to(aside)
            target.parent.mkdir(exist_ok=True)
            path.replace(target)
        shutil.rmtree(aside)
        for path in self._left_by_another_run(kept):
            path.unlink()

    def _left_by_another_run(self, kept: set[str]) -> list[Path]:
        """Weights beside ours that a loader would take for them: a full model's under an adapter, shards under a single file."""
        return [path for pattern in _WEIGHTS for path in self.folder.glob(pattern) if path.name not in kept]


def dumps(value: Any) -> str:
    """JSON with a newline at its end."""
    return json.dumps(value, indent=2) + "\n"


def _random_file(rank: int, world: int) -> str:
    return "rng_state.pth" if world == 1 else f"rng_state_{rank}.pth"


def _load(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)
