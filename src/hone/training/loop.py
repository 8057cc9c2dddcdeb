"""The loop: gather the micro-batches of one optimizer step, count what is learned over all of them, then go backward.

Does not know any single objective, how batches are made, or what becomes of the numbers it reports.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import torch

from hone.data.batch import Batch
from hone.errors import TrainingError
from hone.models.policy import Policy
from hone.objectives.base import Objective
from hone.training.device import Device
from hone.training.feed import MicroBatch
from hone.training.portions import Portions
from hone.training.processes.pulse import PULSE
from hone.training.progress import Progress

MOST_SKIPPED = 40
"""Loss scaling (fp16) halves its scale, 65536 at first, with each step it skips; 2^-24 helps no gradient that 2^-23 does not."""


@dataclass(frozen=True)
class Work:
    """What a step needs. name_rows: data-set indices to words ("alpaca_en_demo row 17"), for a bad batch."""

    objective: Objective
    policy: Policy
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LambdaLR
    device: Device
    max_grad_norm: float
    name_rows: Callable[[list[int]], str]
    portions: Portions


@dataclass(frozen=True)
class StepResult:
    """loss: mean over the step's items, all processes; grad_norm: before clipping; learning_rate: the one used.

    metrics: the objective's further figures as (sum, count) over all processes.
    """

    loss: float
    grad_norm: float
    learning_rate: float
    items: int
    tokens: int
    samples: int
    stop: bool
    skipped: bool
    metrics: Mapping[str, tuple[float, float]] = field(default_factory=dict)


class Observer(Protocol):
    """Told after every step; returns True to end the run."""

    def stepped(self, progress: Progress, result: StepResult) -> bool: ...


def fit(
    work: Work, steps: Iterable[list[MicroBatch]], progress: Progress, observer: Observer, wants_stop: Callable[[], bool]
) -> bool:
    """Take one optimizer step for each of `steps`, until they end, the observer ends them or `wants_stop` on any process.

    Returns True where it was stopped by wish.
    """
    work.policy.module.train()
    skipped, started = 0, time.monotonic()
    PULSE.begin(progress.step + 1)
    for batches in steps:
        result = take_step(work, batches, stop=wants_stop())
        if not progress.step:
            work.portions.forget()  # the optimizer's state has come
        skipped = skipped + 1 if result.skipped else 0
        if skipped > MOST_SKIPPED:
            raise TrainingError(
                f"fp16: the gradient overflowed in {skipped} steps one after the other, and no weight was changed by them: "
                "no loss scale is small enough. Use bf16: true instead of fp16, or lower learning_rate"
            )
        progress.step += 1
        PULSE.safe = True
        progress.tokens += result.tokens
        progress.trained_tokens += result.items
        progress.samples += result.samples
        progress.loss_sum += result.loss
        progress.losses.append(result.loss)
        progress.add(result.metrics)
        progress.seconds += time.monotonic() - started
        PULSE.beat("logging, evaluating or saving", limited=False)
        if observer.stepped(progress, result) or result.stop:
            return result.stop
        PULSE.begin(progress.step + 1)
        started = time.monotonic()  # what the next batches take to come is the run's time too: answers are drawn in it
    return False


class Sums:
    """Figures of several losses by name, added up as (sum, count), here and then over the processes."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float | torch.Tensor, float | torch.Tensor]] = {}

    def add(self, metrics: Mapping[str, tuple[float | torch.Tensor, float | torch.Tensor]], weight: float = 1.0) -> None:
        """Add one loss's figures; nothing is read off the device yet."""
        for name, (total, count) in metrics.items():
            before = self._sums.get(name, (0.0, 0.0))
            self._sums[name] = (before[0] + total * weight, before[1] + count * weight)

    def here(self) -> dict[str, tuple[float, float]]:
        """Added up in this process."""
        return {name: (float(total), float(count)) for name, (total, count) in self._sums.items()}

    def over(self, device: Device) -> dict[str, tuple[float, float]]:
        """Added up over all processes, each of which has the same names."""
        names = sorted(self._sums)
        found = device.total([float(number) for name in names for number in self._sums[name]]) if names else []
        return dict(zip(names, zip(found[::2], found[1::2], strict=True), strict=True))


def measure(objective: Objective, policy: Policy, device: Device, batches: Iterable[tuple[Batch, bool]]) -> dict[str, float]:
    """The numbers of a whole step, over all processes, that the objective's losses need; usually none, and nothing is computed.

    batches: each with whether it counts.
    """
    if not objective.of_step:
        return {}
    return _quotients(_measured(objective, policy, device, batches).over(device))


def _measured(objective: Objective, policy: Policy, device: Device, batches: Iterable[tuple[Batch, bool]]) -> Sums:
    """This process's share of them."""
    sums = Sums()
    sums.add(dict.fromkeys(objective.of_step, (0.0, 0.0)))  # a process without a batch adds nothing
    for batch, counts in batches:
        sums.add(objective.measure(policy, batch.to(device.device)), counts)
    return sums


def _quotients(figures: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    return {name: total / count if count else 0.0 for name, (total, count) in figures.items()}


def take_step(work: Work, batches: list[MicroBatch], *, stop: bool = False) -> StepResult:
    """One optimizer step: the gradient of (sum of losses) / (count of items), over all micro-batches and processes.

    Raises TrainingError, before any weight changes, where the loss or the gradient is not a finite number.
    """
    device, real = work.device, [micro.batch.known for micro in batches if micro.counts]
    counts = [sum(work.objective.count(batch) for batch in real), sum(batch.num_tokens for batch in real)]
    counts += [sum(len(batch.rows) for batch in real), float(stop), float(work.portions.doubts(batches))]
    PULSE.beat("counting its batches with the others")
    items, tokens, samples, stops, doubts = device.total(counts)
    if not items:
        rows = work.name_rows([row for batch in real for row in batch.rows])
        raise TrainingError(
            f"a step has nothing to learn from, so its loss has no mean. Its rows: {rows}. "
            "Leave such rows out (`hone check` counts trained tokens), raise cutoff_len, or take more sequences a step"
        )
    found = form_gradients(work, batches, items, apart=doubts > 0)
    PULSE.beat("adding its loss and gradients up with the others")
    losses = found.losses.double().tolist()
    mean = device.total([math.fsum(losses)])[0] / items
    norm = float(device.clip(work.policy.module, work.max_grad_norm))
    _require_finite(work, found.batches, losses, mean, norm)
    rate = work.schedule.get_last_lr()[0]
    PULSE.beat("changing its weights")
    PULSE.safe = False
    taken = device.step(work.optimizer)
    if taken:
        work.schedule.step()
    return StepResult(mean, norm, rate, int(items), int(tokens), int(samples), stops > 0, not taken, found.metrics.over(device))


@dataclass(frozen=True)
class Formed:
    """What was found beside the gradients. losses: fp32 [micro-batch], of `batches`, the parts in which they were formed."""

    losses: torch.Tensor
    metrics: Sums
    batches: list[MicroBatch]


def form_gradients(work: Work, batches: list[MicroBatch], items: float, *, apart: bool) -> Formed:
    """The gradients of a step, over all processes, in portions that fit into memory.

    apart: each process forms its own first, and all agree that they could; else they are added up while the last are formed.
    """
    portions, device = work.portions, work.device

    def measured(parts: list[MicroBatch]) -> Sums:
        each = ((micro.batch, micro.counts) for micro in portions.each(parts))
        return _measured(work.objective, work.policy, device, each)

    of_step: dict[str, float] = {}
    undo = partial(work.optimizer.zero_grad, set_to_none=True)
    if work.objective.of_step:
        sums = portions.fitted(batches, measured, undo, apart=apart)
        of_step = _quotients((sums or measured([])).over(device))
    found = portions.fitted(batches, lambda parts: _formed(work, parts, items, of_step, apart), undo, apart=apart)
    if apart:
        portions.agree()
        device.add_up_gradients(work.policy.module)
    assert found is not None, "what did not fit was told"
    return found


def _formed(work: Work, batches: list[MicroBatch], items: float, of_step: dict[str, float], apart: bool) -> Formed:
    device, losses, metrics = work.device, [], Sums()
    for number, micro in enumerate(work.portions.each(batches), 1):
        last = number == len(batches) and not apart
        with device.accumulate(work.policy.module, last=last):
            PULSE.beat(f"forward of its micro-batch {number} of {len(batches)}", micro.batch.rows)
            found = work.objective.loss(work.policy, micro.batch.beside(of_step).to(device.device))
            loss = found.total
            if last:
                work.portions.commit()
            PULSE.beat(f"backward of its micro-batch {number} of {len(batches)}", micro.batch.rows)
            # Engines average gradients over processes; times their number makes it the sum that the count divides.
            device.backward(loss * (device.data_world / items if micro.counts else 0.0))
        losses.append(loss.detach() * micro.counts)
        metrics.add(found.metrics, micro.counts)
        metrics.add(micro.metrics)
    return Formed(torch.stack(losses), metrics, batches)


def form_alone(work: Work, batches: list[MicroBatch]) -> None:
    """Form gradients of the micro-batches as of a step of theirs, alone where a process can."""
    of_step = {}
    if work.objective.of_step:
        counted = ((micro.batch, True) for micro in work.portions.each(batches))
        of_step = _quotients(_measured(work.objective, work.policy, work.device, counted).here())
    _formed(work, batches, max(1, work.objective.count(batches[0].batch)), of_step, apart=work.device.forwards_alone)


def _require_finite(work: Work, batches: list[MicroBatch], losses: list[float], mean: float, norm: float) -> None:
    # Under fp16 a norm that overflows is how loss scaling finds its scale: that step is skipped, not wrong.
    if math.isfinite(mean) and (math.isfinite(norm) or work.device.precision == "fp16"):
        return
    pairs = zip(batches, losses, strict=True)
    guilty = [row for micro, loss in pairs if not math.isfinite(loss) for row in micro.batch.rows]
    # Every process is here, as mean and norm are the same on all: the guilty rows may be another's.
    everywhere = work.device.gather((guilty, [row for micro in batches if micro.counts for row in micro.batch.rows]))
    rows = [row for found, _ in everywhere for row in found] or [row for _, mine in everywhere for row in mine]
    what = f"the loss is {mean}" if not math.isfinite(mean) else f"the gradient's norm is {norm} (the loss is {mean:.4g})"
    raise TrainingError(
        f"{what}: no weight was changed by this step and the last checkpoint is as it was. Its rows: {work.name_rows(rows)}. "
        "Look at those rows; if they are in order, lower learning_rate, or use bf16 instead of fp16"
    )
