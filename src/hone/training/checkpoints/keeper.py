"""Keeper: a run's state into a checkpoint folder and back, weights, optimizer, schedule, random numbers and progress alike.

Does not know when to save; how a folder appears whole is `checkpoint`'s.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from hone import log
from hone.errors import CheckpointError
from hone.training.checkpoints import checkpoint, shards
from hone.training.checkpoints.checkpoint import STATE
from hone.training.checkpoints.randomness import random_state, restore_random_state
from hone.training.device import Device
from hone.training.feed import Feed
from hone.training.planning.plan import Plan
from hone.training.progress import Progress
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
class Form:
    """How checkpoints are written. kind: whole weights and moments, or shards of them, as they lie on the processes.

    background: while training goes on. small: whether the whole weights, an adapter's, are written beside the shards too.
    """

    kind: Literal["whole", "shards"] = "whole"
    background: bool = False
    small: bool = False


@dataclass(frozen=True)
class Moving:
    """What going on needs beside the weights. random: by rank; feed: of the batches; optimizer: by weights' names.

    optimizer is None where it is in shards.
    """

    optimizer: dict[str, Any] | None
    random: list[dict[str, Any]]
    feed: dict[str, Any]


Write = Callable[[Path], None]
"""Puts files into a folder."""


class Keeper:
    """Saves and restores one run's checkpoints in `plan.output_dir`.

    settings: the run's resolved settings as text, kept beside the state; stale: checkpoints of an earlier run that this one
    replaces: they go when the first new one is complete.
    """

    def __init__(
        self,
        parts: Parts,
        plan: Plan,
        device: Device,
        *,
        settings: str,
        limit: int | None,
        only_model: bool,
        stale: list[Path],
        form: Form = Form(),
    ):
        self._parts, self._plan, self._device = parts, plan, device
        self._settings, self._limit, self._only_model, self._stale = settings, limit, only_model, stale
        self.folder = Path(plan.output_dir)
        self.last: Path | None = None
        self._form, self._group = form, None
        self._coming: Future[None] | None = None
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="keeper")

    def path(self, step: int) -> Path:
        """checkpoint-N of a step."""
        return self.folder / f"checkpoint-{step}"

    def save(self, progress: Progress, *, to_go_on: bool = False) -> Path:
        """Write the checkpoint of the step just done; all processes call it, rank 0 writes.

        to_go_on: the run stops here, so the optimizer's state is written also under save_only_model.
        """
        self.settle()
        target, moving, shards = self.path(progress.step), None, self._form.kind == "shards"
        if to_go_on or not self._only_model:
            states = self._device.gather(random_state())
            optimizer = None if shards else self._device.optimizer_state(self._parts.module, self._parts.optimizer)
            moving = Moving(optimizer, states, self._parts.feed.state(progress.step))
        about = {"fingerprint": self._plan.fingerprint, "step": progress.step}
        write, tidy = partial(self._write, progress, moving), partial(self._tidy, target, progress.best_checkpoint)
        if shards:
            self._save_shards(target, about, write, tidy, with_moments=moving is not None)
        else:
            self._on_main(lambda: (checkpoint.write_complete(target, write, about=about), tidy()), whole=True)
        if to_go_on:
            self.settle()
        self.last = target
        return target

    def rescue(self, progress: Progress) -> Path | None:
        """The checkpoint of the last finished step by this process alone, as the others are gone or stuck; None where it cannot.

        Dropout goes on with other numbers when it is continued, as by another number of processes.
        """
        target, device, parts = self.path(progress.step), self._device, self._parts
        if not progress.step or target == self.last or not device.forwards_alone or isinstance(parts.feed, RolloutFeed):
            return None
        about = {"fingerprint": self._plan.fingerprint, "step": progress.step}
        with device.aside():
            optimizer = device.optimizer_state(parts.module, parts.optimizer)
            moving = Moving(optimizer, [random_state()], parts.feed.state(progress.step))

            def write(folder: Path) -> None:
                parts.save_weights(folder)
                self._write_state(progress, moving, folder)

            checkpoint.write_complete(target, write, about=about)
        return target

    def _save_shards(
        self, target: Path, about: dict[str, object], write: Write, tidy: Callable[[], None], *, with_moments: bool
    ) -> None:
        """Rank 0 writes what is small, every process its shards; rank 0 lets all of it appear when the last has written."""
        module, device = self._parts.module, self._device
        self._on_main(lambda: write(checkpoint.begin(target)), whole=self._form.small)
        if self._group is None and self._form.background:
            self._group = device.group_aside()
        state = device.moments(module, self._parts.optimizer) if with_moments else {}
        place, weights = checkpoint.aside_of(target) / shards.FOLDER, device.parts(module)
        with self._cleared(target):
            writing = shards.write(
                weights, state, place, group=self._group, alone=device.world == 1, background=self._form.background
            )

        def finish() -> None:
            with self._cleared(target):
                writing.wait()
            if device.is_main:
                checkpoint.complete(target, about=about)
                tidy()

        self._coming = self._writer.submit(finish)
        if not self._form.background:
            self.settle()

    def _cleared(self, target: Path) -> AbstractContextManager[None]:
        """A process that cannot write its shards is one for all: nothing is left of those of the others."""
        return checkpoint.whole_or_not(target) if self._device.is_main else nullcontext()

    @property
    def is_saving(self) -> bool:
        """Whether a checkpoint is still being written."""
        return self._coming is not None

    def settle(self) -> None:
        """Wait for a checkpoint that is still being written; CheckpointError on all processes where it could not be."""
        coming, self._coming = self._coming, None
        if coming is not None:
            self._agree(coming.result)

    def _on_main(self, write: Callable[[], object], *, whole: bool) -> None:
        """Call `write` on rank 0; CheckpointError on all where it could not. whole: with whole weights in the module."""
        with self._device.whole(self._parts.module) if whole else nullcontext():
            self._agree(write if self._device.is_main else lambda: None)

    def _agree(self, write: Callable[[], object]) -> None:
        """Call `write`; a CheckpointError of one process is one of all."""
        failure = ""
        try:
            write()
        except CheckpointError as problem:
            failure = str(problem)
        if failures := [text for text in self._device.gather(failure) if text]:
            raise CheckpointError(failures[0])

    def _write(self, progress: Progress, moving: Moving | None, folder: Path) -> None:
        if self._form.kind == "whole" or self._form.small:
            self._parts.save_weights(folder)
        self._write_state(progress, moving, folder)

    def _write_state(self, progress: Progress, moving: Moving | None, folder: Path) -> None:
        plan = self._plan
        state = progress.to_state(num_steps=plan.num_steps, steps_per_epoch=plan.steps_per_epoch, num_epochs=plan.num_epochs)
        (folder / STATE).write_text(dumps(state), encoding="utf-8")
        (folder / "run.yaml").write_text(self._settings, encoding="utf-8")
        if moving is None:
            return
        if moving.optimizer is not None:
            torch.save(moving.optimizer, folder / OPTIMIZER)
        torch.save(self._parts.schedule.state_dict(), folder / SCHEDULER)
        if (scaler := self._device.scaler_state()) is not None:
            torch.save(scaler, folder / SCALER)
        if moving.feed:
            torch.save(moving.feed, folder / FEED)
        for rank, random_numbers in enumerate(moving.random):
            torch.save(random_numbers, folder / _random_file(rank, len(moving.random)))

    def _tidy(self, newest: Path, best: str | None) -> None:
        with checkpoint.writing(self.folder):
            for folder in self._stale:
                if folder.exists() and folder != newest:
                    checkpoint.discard(folder)
            self._stale = []
            checkpoint.prune(self.folder, self._limit, best)

    def restore(self, folder: Path) -> Progress:
        """Put a complete checkpoint's state back into the parts; returns its progress."""
        place = folder / shards.FOLDER
        missing = [name for name in (OPTIMIZER, SCHEDULER) if not (folder / name).is_file()]
        if missing == [OPTIMIZER] and place.is_dir() and shards.has_moments(place):
            missing = []
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
        self.settle()
        self._load_weights(Path(best))

    def _load_weights(self, folder: Path) -> None:
        module, place = self._parts.module, folder / shards.FOLDER
        if place.is_dir():
            shards.read_weights(place, self._device.parts(module))
        else:
            self._device.load_whole(module, partial(self._parts.load_weights, folder))

    def _load_keeping_settings(self, folder: Path) -> None:
        """Moments and the schedule's step come from the checkpoint; rates, decay and the like from this run's settings.

        The schedule would otherwise bring its old numbers back, and a changed learning_rate would do nothing.
        """
        optimizer, schedule = self._parts.optimizer, self._parts.schedule
        module, peaks = self._parts.module, list(schedule.base_lrs)
        if (folder / OPTIMIZER).is_file():
            self._device.load_optimizer_state(module, optimizer, _load(folder / OPTIMIZER))
        else:
            self._load_shards(folder / shards.FOLDER)
        schedule.load_state_dict(_load(folder / SCHEDULER))
        schedule.base_lrs = peaks
        rates = [peak * factor(schedule.last_epoch) for peak, factor in zip(peaks, schedule.lr_lambdas, strict=True)]
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        schedule._last_lr = rates

    def _load_shards(self, place: Path) -> None:
        module, optimizer, weights = self._parts.module, self._parts.optimizer, self._device.parts(self._parts.module)
        learned = [name for name, weight in weights.items() if weight.requires_grad]
        self._device.place_moments(module, optimizer, shards.read_moments(place, weights, learned))

    def finish(self) -> None:
        """Write the trained weights into output_dir itself, so that a half-written file never stands there."""
        self.settle()
        self._on_main(self._write_final, whole=True)

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
