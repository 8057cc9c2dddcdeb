"""Plan: what will be done, decided before a weight is loaded: steps, batches, precision, memory, paths. Printed and saved.

Does not know the objective's formula nor how a step is taken.
"""

from __future__ import annotations

import json
import math
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import hone
from hone.config.train import TrainConfig
from hone.errors import RunError
from hone.models.checkpointing import Activations
from hone.training.checkpoints.checkpoint import write_whole
from hone.training.engines.base import Precision
from hone.training.planning.memory import Memory, sized

PACKAGES = ("torch", "transformers", "peft", "accelerate", "tokenizers", "safetensors", "bitsandbytes")


@dataclass(frozen=True)
class Plan:
    """log_every, eval_every, save_every: optimizer steps, 0 for never; eval_after: no evaluation before this step; eval_first,
    eval_last: one before the first step, and after the last.

    why: how micro_batch and activations were chosen; step_seconds: an estimate; from_layers: it and memory are counted from the
    model's own layers, not by a formula; fits: into the memory that is free; instead: settings that would, where it does not.
    tile: tokens that feed-forward layers take at a time where activations are computed again, 0 for all of a row.
    unit: what an example is called; draws: answers that are drawn to each, 0 where the data hold what is learned;
    share: of those to which answers are drawn.
    named: the hardware that is planned for where it is not this machine's; "" where it is.
    layout: how sequences lie in a batch. spread: how the model lies on several processes, in words; "" for one.
    per_step: examples (rows, where packing fills them) of one optimizer step, over all processes.
    """

    device: str
    named: str
    machine: str
    fallbacks: tuple[str, ...]
    world: int
    spread: str
    precision: Precision
    trained_dtype: str
    num_rows: int
    num_eval_rows: int
    tokens_per_epoch: int
    trained_tokens_per_epoch: int
    micro_batch: int
    accumulation: int
    per_step: int
    steps_per_epoch: int
    num_steps: int
    num_epochs: float
    log_every: int
    eval_every: int
    eval_after: int
    eval_first: bool
    eval_last: bool
    save_every: int
    unit: str
    draws: int
    share: float
    layout: Literal["packed", "packed to cutoff_len", "padded"]
    activations: Activations
    tile: int
    why: str
    num_weights: int
    num_trained: int
    memory: Memory
    step_seconds: float
    from_layers: bool
    available_bytes: int
    fits: bool
    instead: str
    seed: int
    output_dir: str
    fingerprint: dict[str, dict[str, str]]

    def lines(self, *, trains: bool = True) -> list[str]:
        """The plan for people. trains: False for a run that takes the model as it is, and has no steps."""
        share = 100 * self.num_trained / max(1, self.num_weights)
        spread = f" ({self.spread})" if self.spread else ""
        learns = f", of which {self.num_trained:,} ({share:.2f}%) trained in {self.trained_dtype}" if trains else ""
        return [
            f"device       {self.world} x {self.device}{spread}, computing in {_PRECISIONS[self.precision]}: {self.machine}",
            *([_ELSEWHERE] if self.named else []),
            *(f"falls back   {line}" for line in self.fallbacks),
            f"weights      {self.num_weights:,}{learns}",
            *(self._learning() if trains else [f"data         {self.num_eval_rows:,} {self.unit}"]),
            f"output       {self.output_dir}",
        ]

    def _learning(self) -> list[str]:
        """What a run that trains learns from, for how long, and what it takes."""
        held = ", what Python and its libraries hold already included" if self.memory.libraries else ""
        often = lambda every: f"every {every} steps" if every else "never"  # noqa: E731
        total = self.memory.total
        return [
            f"data         {self.num_rows:,} {self.unit}, {self.tokens_per_epoch:,} tokens, "
            f"{self.trained_tokens_per_epoch:,} trained; {self._evaluated()}",
            f"step         {self._step()} = {self.micro_batch} x {self.accumulation} accumulated "
            f"x {self.world} processes, {self.layout}",
            f"length       {self.num_steps:,} steps = {self.num_epochs:g} epochs of {self.steps_per_epoch:,}",
            f"log          {often(self.log_every)}; evaluate {self._when()}; save {often(self.save_every)}",
            f"activations  {_ACTIVATIONS[self.activations]}"
            + (f"; feed-forward layers {self.tile:,} tokens at a time" if self.tile else ""),
            f"chosen       {self._chosen()}: {self.why}",
            f"time         {in_words(self.step_seconds)} a step, {in_words(self.step_seconds * self.num_steps)} in all, "
            "by an estimate, where nothing else runs",
            f"memory       about {sized(total, total)} a process at its highest{held} "
            f"({'there to be filled' if self.named else 'free now'}: {sized(self.available_bytes, total)})",
            *(f"             {line}" for line in self.memory.lines()),
            *([] if self.fits else [f"             {self.too_much()}"]),
        ]

    def too_much(self) -> str:
        """What to say where the memory is more than may be filled."""
        hint = f"; what fits: {self.instead}" if self.instead else "; nothing that could be chosen here fits"
        free = sized(self.available_bytes, self.memory.total)
        return f"more than the {free} that are free allow, with a fifth of them left over{hint}"

    def _when(self) -> str:
        """When it is evaluated."""
        steps = [f"every {self.eval_every} steps"] if self.eval_every else []
        return ", ".join(["before the first step"] * self.eval_first + steps + ["at the end"] * self.eval_last) or "never"

    def _evaluated(self) -> str:
        """What is evaluated, and where nothing is, what would be."""
        if self._when() != "never" or not self.num_eval_rows:
            return f"{self.num_eval_rows:,} {self.unit} to evaluate"
        return f"{self.num_eval_rows:,} {self.unit} that are never evaluated: write eval_strategy, or do_eval: true"

    def _chosen(self) -> str:
        asked = "per_device_train_batch_size" not in self.why
        return "these activations" if asked else f"{self.micro_batch} at once and these activations"

    def _step(self) -> str:
        """What a step learns from."""
        if not self.draws:
            return f"{self.per_step} {self.unit}"
        if self.share < 1:
            return f"{self.per_step} {self.unit}, about {self.share:.0%} of them answered anew,"
        return f"{self.per_step} answers, {self.draws} to each of {self.per_step // self.draws} {self.unit},"

    def to_dict(self) -> dict[str, Any]:
        """The plan for machines, with the versions of everything that computes."""
        return {**asdict(self), "versions": versions()}

    def save(self, folder: Path) -> None:
        """Write plan.json."""
        write_whole(folder / "plan.json", json.dumps(self.to_dict(), indent=1))


_ACTIVATIONS = {
    "kept": "kept",
    "selective": "products and attention kept, the rest computed again in the backward pass",
    "full": "computed again in the backward pass, layer by layer",
    "offloaded": "computed again in the backward pass, the layers' inputs held in host memory",
}
_PRECISIONS = {"no": "float32", "bf16": "bfloat16", "fp16": "float16"}


_ELSEWHERE = "             not this machine's: by its maker's data sheet, with nothing tried on one"


SPAN = (0.9, 1.7)
"""Between which times its estimate a step was measured on a CPU (bench/plan_time.py); on a GPU it is assumed."""


def in_words(seconds: float) -> str:
    """The span of an estimate: "0.36 to 0.68 seconds", "11 to 20 minutes", "7.2 to 14 hours"."""
    low, high = (share * seconds for share in SPAN)
    unit, length = next(
        ((unit, length) for unit, length in (("hours", 3600), ("minutes", 60)) if low >= 2 * length), ("seconds", 1)
    )
    return f"{_short(low / length)} to {_short(high / length)} {unit}"


def _short(number: float) -> str:
    """Two digits: "0.36", "7.2", "140"."""
    return f"{float(f'{number:.2g}'):,.10g}"


def versions() -> dict[str, str]:
    """Python, hone and the packages that compute; "" for one that is not installed."""
    found = {"python": platform.python_version(), "hone": hone.__version__}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = ""
    return found


def precision_of(train: TrainConfig) -> Precision:
    """The mixed precision the settings ask for; pure_bf16 needs no mixing, its weights are bfloat16 already."""
    if train.bf16 or train.pure_bf16:
        return "bf16"
    return "fp16" if train.fp16 else "no"


def count_steps(train: TrainConfig, steps_per_epoch: int) -> tuple[int, float]:
    """Optimizer steps of the run and the epochs they make."""
    if steps_per_epoch == 0:
        raise RunError(
            "an epoch has no whole step: fewer rows than per_device_train_batch_size x gradient_accumulation_steps x processes; "
            "lower them, or write dataloader_drop_last: false"
        )
    num_steps = train.max_steps if train.max_steps > 0 else math.ceil(train.num_train_epochs * steps_per_epoch)
    return num_steps, num_steps / steps_per_epoch


def cadence(every: float | None, num_steps: int) -> int:
    """Steps between events: a share of all steps where below 1; 0 for never."""
    if not every:
        return 0
    return max(1, math.ceil(every * num_steps)) if every < 1 else int(every)


def eval_every(train: TrainConfig, num_steps: int, steps_per_epoch: int) -> int:
    """Steps between evaluations."""
    choices = {"no": 0, "epoch": steps_per_epoch, "steps": cadence(train.eval_steps or train.logging_steps, num_steps)}
    return choices[train.eval_strategy]


def eval_after(train: TrainConfig, steps_per_epoch: int) -> int:
    """Steps that pass before the first evaluation."""
    return math.ceil(train.eval_delay * (steps_per_epoch if train.eval_strategy == "epoch" else 1))


def log_every(train: TrainConfig, num_steps: int, steps_per_epoch: int) -> int:
    """Steps between log lines."""
    return {"no": 0, "epoch": steps_per_epoch, "steps": cadence(train.logging_steps, num_steps)}[train.logging_strategy]


def save_every(train: TrainConfig, num_steps: int, steps_per_epoch: int) -> int:
    """Steps between checkpoints."""
    return {"no": 0, "epoch": steps_per_epoch, "steps": cadence(train.save_steps, num_steps)}[train.save_strategy]
