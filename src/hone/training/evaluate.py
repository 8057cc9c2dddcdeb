"""Evaluation: the mean loss of sets that are not learned from, over all processes.

Does not know when it is called nor what becomes of the figures.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from hone.data.build import TokenSet
from hone.models.policy import Policy
from hone.objectives.base import Objective
from hone.training.device import Device
from hone.training.feed import lay_out


@dataclass(frozen=True)
class Layout:
    """How evaluation batches are laid out. micro_batch: sequences a process takes at once."""

    micro_batch: int
    packed: bool
    pad_id: int


def evaluate(policy: Policy, objective: Objective, sets: dict[str, TokenSet], device: Device, layout: Layout) -> dict[str, float]:
    """`eval_loss` (sum over items / count of items) and its perplexity, run time and rates.

    sets: by name; the one named "" gives eval_loss, one named x gives eval_x_loss. Without "" eval_loss is that of all together.
    """
    started, metrics, sums = time.monotonic(), {}, [0.0, 0.0]
    samples = sum(len(tokens) for tokens in sets.values())
    was_training = policy.module.training
    policy.module.eval()
    with torch.no_grad():
        for name, tokens in sets.items():
            total, items = _sum_loss(policy, objective, tokens, device, layout)
            sums = [sums[0] + total, sums[1] + items]
            if name:
                metrics[f"eval_{name}_loss"] = total / items
    policy.module.train(was_training)
    seconds = time.monotonic() - started
    loss = sums[0] / sums[1]
    perplexity = math.exp(loss) if loss < 700 else math.inf
    rates = {"eval_runtime": round(seconds, 4), "eval_samples_per_second": round(samples / seconds, 3)}
    return {"eval_loss": loss, "eval_perplexity": perplexity, **metrics, **rates}


def metric_names(sets: dict[str, TokenSet]) -> list[str]:
    """The names `evaluate` gives its figures for these sets."""
    return [*_NAMES, *(f"eval_{name}_loss" for name in sets if name)]


_NAMES = ("eval_loss", "eval_perplexity", "eval_runtime", "eval_samples_per_second")


def _sum_loss(policy: Policy, objective: Objective, tokens: TokenSet, device: Device, layout: Layout) -> tuple[float, float]:
    total, items = 0.0, 0.0
    for rows in _shares(len(tokens), layout.micro_batch, device):
        batch = lay_out(tokens, rows, packed=layout.packed, pad_id=layout.pad_id)
        items += objective.count(batch)
        total += float(objective.loss(policy, batch.to(device.device)).total)
    total, items = device.total([total, items])
    return total, items


def _shares(num_rows: int, micro_batch: int, device: Device) -> Iterator[list[int]]:
    """This process's rows, `micro_batch` at a time: every world-th row, so that shares are alike."""
    mine = list(range(device.rank, num_rows, device.world))
    for start in range(0, len(mine), micro_batch):
        yield mine[start : start + micro_batch]
