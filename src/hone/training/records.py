"""Records: what a run tells while it goes: trainer_log.jsonl, the progress bar, trackers, and the lines for people.

Does not know how a step is taken nor when to save.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from tqdm import tqdm

from hone import log
from hone.training.checkpoints.checkpoint import write_whole, writing
from hone.training.device import Device
from hone.training.planning.plan import Plan
from hone.training.progress import Progress

LOG_FILE = "trainer_log.jsonl"
_RATES = ("eval_perplexity", "eval_runtime", "eval_samples_per_second")


class Records:
    """Writes on rank 0 and stays silent elsewhere.

    Lines of a continued run are appended: those of steps that are taken again are dropped first.
    """

    def __init__(self, plan: Plan, device: Device, progress: Progress, *, show_bar: bool, memory: bool):
        self._plan, self._device, self._memory = plan, device, memory
        self._file = Path(plan.output_dir) / LOG_FILE
        self._started, self._first_step, self._first_tokens = time.monotonic(), progress.step, progress.tokens
        self._bar: tqdm[Any] | None = None
        if device.is_main:
            with writing(self._file):
                _forget_after(self._file, progress)
            self._bar = tqdm(total=plan.num_steps, initial=progress.step, unit="step", disable=not show_bar, dynamic_ncols=True)

    def stepped(self, progress: Progress) -> None:
        """Move the bar on."""
        if self._bar is not None:
            rate = (progress.tokens - self._first_tokens) / max(1e-9, time.monotonic() - self._started)
            memory = self._device.memory_bytes() / 2**30
            self._bar.set_postfix_str(f"loss {progress.losses[-1]:.4f}, {rate:,.0f} tok/s, {memory:.1f} GiB", refresh=False)
            self._bar.update(1)

    def log_step(self, progress: Progress, *, grad_norm: float, learning_rate: float) -> None:
        """The mean loss since the last log line, with Hugging Face's keys into the history, LLaMA-Factory's into the file."""
        loss = statistics.fmean(progress.losses)
        progress.losses.clear()
        epoch = progress.step / self._plan.steps_per_epoch
        metrics = progress.take_metrics()
        values = {"loss": loss, "grad_norm": grad_norm, "learning_rate": learning_rate, **metrics, "epoch": epoch}
        progress.log_history.append({**values, "step": progress.step})
        self._write(progress, {"loss": loss, "lr": learning_rate, **metrics, "epoch": epoch})
        self._device.track({f"train/{name}": value for name, value in values.items()}, progress.step)

    def log_evaluation(self, progress: Progress, metrics: Mapping[str, float]) -> None:
        """An evaluation's metrics."""
        epoch = progress.step / self._plan.steps_per_epoch
        progress.log_history.append({**metrics, "epoch": epoch, "step": progress.step})
        told = {name: value for name, value in metrics.items() if name not in _RATES}
        self._write(progress, {**told, "epoch": epoch})
        self._device.track({name.replace("eval_", "eval/", 1): value for name, value in metrics.items()}, progress.step)

    def _write(self, progress: Progress, values: Mapping[str, float]) -> None:
        if not self._device.is_main:
            return
        total, done = self._plan.num_steps, progress.step
        elapsed = time.monotonic() - self._started
        taken = max(1, done - self._first_step)
        line: dict[str, Any] = {"current_steps": done, "total_steps": total, **values}
        line["percentage"] = round(100 * done / total, 2)
        line["elapsed_time"] = _clock(elapsed)
        line["remaining_time"] = _clock(elapsed / taken * (total - done))
        line["throughput"] = round((progress.tokens - self._first_tokens) / max(1e-9, elapsed), 2)
        line["total_tokens"] = progress.tokens
        if self._memory:
            line["vram_allocated"] = round(self._device.memory_bytes() / 2**30, 2)
        with writing(self._file), self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self.say(", ".join(f"{name} {value:.4g}" for name, value in values.items()) + f", step {done}/{total}")

    def say(self, line: str) -> None:
        """A line for people, above the bar where there is one."""
        if self._bar is not None and not self._bar.disable:
            self._bar.clear()
        log.info(line)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=int(seconds)))


def _forget_after(path: Path, progress: Progress) -> None:
    """Keep the lines that `progress` knows, one a record: a run that starts anew or goes on writes the later ones again."""
    if not path.exists():
        return
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if _step_of(line) <= progress.step]
    write_whole(path, "".join(line + "\n" for line in lines[: len(progress.log_history)]))


def _step_of(line: str) -> float:
    """A log line's step; infinity for a line that a crash cut short, so that it goes."""
    try:
        return json.loads(line)["current_steps"]
    except (ValueError, KeyError):
        return float("inf")
