"""Learning-rate schedules by their Hugging Face names: pure functions from the step to a factor of the highest rate.

Does not know optimizers or torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Factor = Callable[[int], float]


@dataclass(frozen=True)
class Span:
    """warmup: steps in which the rate rises; total: all steps; peak: the highest rate."""

    warmup: int
    total: int
    peak: float

    def rising(self, step: int) -> float:
        """The warm-up's factor, 0 at step 0."""
        return step / max(1, self.warmup)

    def progress(self, step: int) -> float:
        """Share of the steps after the warm-up that are done."""
        return (step - self.warmup) / max(1, self.total - self.warmup)


def constant(span: Span) -> Factor:
    """Always the highest rate; a warm-up has no place in it."""
    return lambda step: 1.0


def constant_with_warmup(span: Span) -> Factor:
    """The highest rate after the warm-up."""
    return lambda step: span.rising(step) if step < span.warmup else 1.0


def linear(span: Span) -> Factor:
    """A straight line to 0."""
    return lambda step: span.rising(step) if step < span.warmup else max(0.0, 1 - span.progress(step))


def cosine(span: Span, *, num_cycles: float = 0.5) -> Factor:
    """num_cycles waves of a cosine; a half one ends at 0."""
    return lambda step: span.rising(step) if step < span.warmup else max(0.0, _wave(span.progress(step), num_cycles))


def cosine_with_restarts(span: Span, *, num_cycles: int = 1) -> Factor:
    """num_cycles half waves, each from the highest rate to 0."""

    def factor(step: int) -> float:
        if step < span.warmup:
            return span.rising(step)
        done = span.progress(step)
        return 0.0 if done >= 1 else _wave((num_cycles * done) % 1.0, 0.5)

    return factor


def polynomial(span: Span, *, lr_end: float = 1e-7, power: float = 1.0) -> Factor:
    """A power of what remains, from the highest rate to lr_end; ValueError where lr_end is not below it."""
    if lr_end >= span.peak:
        raise ValueError(f"lr_end {lr_end} is not below learning_rate {span.peak}")

    def factor(step: int) -> float:
        if step < span.warmup:
            return span.rising(step)
        remains = 0.0 if step >= span.total else 1 - (step - span.warmup) / (span.total - span.warmup)
        return ((span.peak - lr_end) * remains**power + lr_end) / span.peak

    return factor


def inverse_sqrt(span: Span, *, timescale: int | None = None) -> Factor:
    """sqrt(timescale / steps); timescale: the warm-up's steps, or 10,000 without one."""
    scale = timescale or span.warmup or 10_000
    return lambda step: span.rising(step) if step < span.warmup else 1 / math.sqrt((step + scale - span.warmup) / scale)


def cosine_with_min_lr(
    span: Span, *, num_cycles: float = 0.5, min_lr: float | None = None, min_lr_rate: float | None = None
) -> Factor:
    """A cosine that ends at min_lr, or at min_lr_rate of the highest rate; ValueError unless one of them is given."""
    low = _low(span, min_lr, min_lr_rate)

    def factor(step: int) -> float:
        return span.rising(step) if step < span.warmup else max(0.0, low + (1 - low) * _wave(span.progress(step), num_cycles))

    return factor


def cosine_warmup_with_min_lr(
    span: Span,
    *,
    num_cycles: float = 0.5,
    min_lr: float | None = None,
    min_lr_rate: float | None = None,
    warmup_lr_rate: float | None = None,
) -> Factor:
    """The same, with a warm-up that starts above 0: at warmup_lr_rate of the highest rate, or one step in."""
    low = _low(span, min_lr, min_lr_rate)

    def factor(step: int) -> float:
        if step < span.warmup:
            if warmup_lr_rate is None:
                return (step + 1) / max(1, span.warmup)
            return warmup_lr_rate + (1 - warmup_lr_rate) * step / max(1, span.warmup - 1)
        done = (step - span.warmup + 1) / max(1, span.total - span.warmup)
        return max(0.0, low + (1 - low) * _wave(done, num_cycles))

    return factor


def warmup_stable_decay(
    span: Span,
    *,
    num_stable_steps: int | None = None,
    num_decay_steps: int | None = None,
    warmup_type: str = "linear",
    decay_type: str = "cosine",
    min_lr_ratio: float = 0.0,
    num_cycles: float = 0.5,
) -> Factor:
    """Rise, stay, fall. Without numbers a third of the steps after the warm-up stays and the rest falls, as in LLaMA-Factory.

    warmup_type, decay_type: linear, cosine or 1-sqrt; min_lr_ratio: where the rise starts and the fall ends.
    """
    rest = span.total - span.warmup
    if num_decay_steps is None:
        stable = rest // 3 if num_stable_steps is None else num_stable_steps
        decay = rest - stable
    else:
        decay = num_decay_steps
        stable = rest - decay if num_stable_steps is None else num_stable_steps
    rise, fall = _curve("warmup_type", warmup_type), _curve("decay_type", decay_type)

    def lifted(factor: float) -> float:
        return max(0.0, min_lr_ratio + (1 - min_lr_ratio) * factor)

    def factor(step: int) -> float:
        if step < span.warmup:
            return lifted(rise(span.rising(step), True, num_cycles))
        if step < span.warmup + stable:
            return 1.0
        if step < span.warmup + stable + decay:
            return lifted(fall((step - span.warmup - stable) / max(1, decay), False, num_cycles))
        return min_lr_ratio

    return factor


SCHEDULES: dict[str, Callable[..., Factor]] = {
    "constant": constant,
    "constant_with_warmup": constant_with_warmup,
    "linear": linear,
    "cosine": cosine,
    "cosine_with_restarts": cosine_with_restarts,
    "polynomial": polynomial,
    "inverse_sqrt": inverse_sqrt,
    "cosine_with_min_lr": cosine_with_min_lr,
    "cosine_warmup_with_min_lr": cosine_warmup_with_min_lr,
    "warmup_stable_decay": warmup_stable_decay,
}


def _wave(done: float, cycles: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * cycles * 2 * done))


def _low(span: Span, min_lr: float | None, min_lr_rate: float | None) -> float:
    if (min_lr is None) == (min_lr_rate is None):
        raise ValueError("it needs either min_lr or min_lr_rate")
    return min_lr_rate if min_lr is None else min_lr / span.peak


def _curve(key: str, name: str) -> Callable[[float, bool, float], float]:
    """A curve of progress 0 to 1: rising from 0 to 1, or falling from 1 to 0."""
    curves: dict[str, Any] = {
        "linear": lambda done, rising, cycles: done if rising else 1 - done,
        "cosine": lambda done, rising, cycles: 0.5 * (1 - math.cos(math.pi * done)) if rising else _wave(done, cycles),
        "1-sqrt": lambda done, rising, cycles: 1 - math.sqrt(1 - done if rising else done),
    }
    if name not in curves:
        raise ValueError(f'{key}: "{name}" is not one of {", ".join(curves)}')
    return curves[name]
