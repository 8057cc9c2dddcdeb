"""Evaluation: the mean loss and figures of sets that are not learned from, over all processes.

Does not know when it is called nor what becomes of the figures.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from hone.data.batch import Batch
from hone.data.build import TokenSet
from hone.models.forward import Packing
from hone.models.policy import Policy
from hone.objectives.base import Objective
from hone.training.device import Device
from hone.training.feed import lay_out
from hone.training.loop import Sums, measure
from hone.training.progress import Progress


@dataclass(frozen=True)
class Layout:
    """How evaluation batches are laid out. micro_batch: sequences a process takes at once."""

    micro_batch: int
    packing: Packing
    pad_id: int


def evaluate(policy: Policy, objective: Objective, sets: dict[str, TokenSet], device: Device, layout: Layout) -> dict[str, float]:
    """`eval_loss` (sum over items / count of items), its perplexity, the objective's figures, run time and rates.

    sets: by name; the one named "" gives eval_loss, one named x gives eval_x_loss. Without "" eval_loss is that of all together.
    """
    started, metrics, whole = time.monotonic(), {}, Progress()
    samples = sum(len(tokens) for tokens in sets.values())
    was_training = policy.module.training
    policy.module.eval()
    with torch.no_grad():
        for name, tokens in sets.items():
            found = _sums(policy, objective, tokens, device, layout)
            whole.add(found)
            if name:
                own = Progress()
                own.add(found)
                metrics |= {f"eval_{name}_{figure}": value for figure, value in objective.told(own.take_metrics()).items()}
    policy.module.train(was_training)
    seconds = time.monotonic() - started
    together = {f"eval_{figure}": value for figure, value in objective.told(whole.take_metrics()).items()}
    if objective.has_perplexity:
        together["eval_perplexity"] = math.exp(together["eval_loss"]) if together["eval_loss"] < 700 else math.inf
    rates = {"eval_runtime": round(seconds, 4), "eval_samples_per_second": round(samples / seconds, 3)}
    return {**together, **metrics, **rates}


def metric_names(objective: Objective, sets: dict[str, TokenSet]) -> list[str]:
    """The names `evaluate` gives its figures for these sets."""
    figures = objective.told(dict.fromkeys(("loss", *objective.metrics), 0.0))
    perplexity = ("eval_perplexity",) if objective.has_perplexity else ()
    names = [f"eval_{name}_{figure}" for name in sets if name for figure in figures]
    return [*(f"eval_{figure}" for figure in figures), *perplexity, *names, "eval_runtime", "eval_samples_per_second"]


def _sums(
    policy: Policy, objective: Objective, tokens: TokenSet, device: Device, layout: Layout
) -> dict[str, tuple[float, float]]:
    """Of every figure, the loss among them, its sum and count over all processes."""
    sums = Sums()
    sums.add(dict.fromkeys(("loss", *objective.metrics), (0.0, 0.0)))  # a process without a row adds nothing
    of_step = measure(objective, policy, device, _batches(objective, tokens, device, layout))
    for batch, counts in _batches(objective, tokens, device, layout):
        loss = objective.loss(policy, batch.beside(of_step).to(device.device))
        sums.add({"loss": (loss.total, objective.count(batch)), **loss.metrics}, counts)
    return sums.over(device)


def _batches(objective: Objective, tokens: TokenSet, device: Device, layout: Layout) -> Iterator[tuple[Batch, bool]]:
    for rows, counts in shares(len(tokens), layout.micro_batch, device, fixed=objective.mixes_rows):
        yield lay_out(tokens, rows, packing=layout.packing, pad_id=layout.pad_id), counts


def shares(num_rows: int, micro_batch: int, device: Device, *, fixed: bool) -> list[tuple[list[int], bool]]:
    """This process's rows, `micro_batch` at a time, each with whether it counts: every world-th row, so that shares are alike.

    fixed: every world-th micro-batch of rows after each other, which are then the same on any number of processes. All processes
    have as many, as they go forward together where weights are in shards: what one has less is a repeat that does not count.
    """
    mine, most = (_shares(num_rows, micro_batch, rank, device.data_world, fixed=fixed) for rank in (device.data_rank, 0))
    spare = mine[-1] if mine else [0]
    return [(rows, True) for rows in mine] + [(spare, False)] * (len(most) - len(mine))


def _shares(num_rows: int, micro_batch: int, rank: int, world: int, *, fixed: bool) -> list[list[int]]:
    if fixed:
        return [
            list(range(start, min(start + micro_batch, num_rows)))
            for start in range(rank * micro_batch, num_rows, world * micro_batch)
        ]
    mine = list(range(rank, num_rows, world))
    return [mine[start : start + micro_batch] for start in range(0, len(mine), micro_batch)]
