"""How full packed rows are, and how evenly ranks share tokens: `python bench/packing.py [LENGTHS.npy]`.

Knows no data: lengths are drawn, or those of the file, an array of tokens a row. CPU seconds of one thread.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from hone.data.order import Steps
from hone.data.pack import best_fit_bins

CAPACITY, MANY = 2048, 1_000_000


def drawn(rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    """Lengths by what they are like: answers as in alpaca, long answers, anything."""
    return {
        "lognormal, median 150": np.clip(rng.lognormal(5, 0.8, count), 8, CAPACITY).astype(np.int64),
        "lognormal, median 670": np.clip(rng.lognormal(6.5, 0.8, count), 8, CAPACITY).astype(np.int64),
        "uniform": rng.integers(1, CAPACITY + 1, count),
    }


def show_packing(rng: np.random.Generator) -> None:
    """A line a kind of lengths: seconds, share of the rows that is filled, and rows over what no packing can do without."""
    print(f"| {MANY:,} lengths in rows of {CAPACITY:,} | seconds | filled | rows over the least possible |\n|---|---|---|---|")
    for name, lengths in drawn(rng, MANY).items():
        started = time.process_time()
        bins = best_fit_bins(lengths, CAPACITY)
        seconds, least = time.process_time() - started, -(-int(lengths.sum()) // CAPACITY)
        print(f"| {name} | {seconds:.2f} | {lengths.sum() / (len(bins) * CAPACITY):.3%} | {len(bins) / least - 1:.3%} |")


def imbalance(steps: list[list[int]]) -> float:
    """Tokens of the fullest rank over the mean, each step weighed by its tokens: what the others wait, as a share."""
    return sum(max(ranks) for ranks in steps) / sum(sum(ranks) / len(ranks) for ranks in steps) - 1


def show_shares(lengths: np.ndarray, micro: int, accumulation: int) -> None:
    """A line a number of ranks: what is waited for the fullest rank, with rows dealt in turn and as hone shares them."""
    print(f"\n| ranks, {micro} rows a micro-batch x {accumulation} | dealt in turn | shared by tokens |\n|---|---|---|")
    for world in (2, 4, 8):
        per_step = micro * accumulation * world
        steps = Steps(lengths, per_step=per_step, micro=micro, world=world, seed=0, drop_last=True)
        taken = [steps.step(0, index) for index in range(steps.num_steps_per_epoch)]
        shared = [[int(lengths[np.concatenate(rank)].sum()) for rank in ranks] for ranks in taken]
        order = np.random.default_rng([0, 0]).permutation(len(lengths))[: len(taken) * per_step].reshape(len(taken), per_step)
        dealt = [[int(lengths[rows[rank::world]].sum()) for rank in range(world)] for rows in order]
        print(f"| {world} | {imbalance(dealt):.2%} | {imbalance(shared):.2%} |")


def main() -> None:
    """Both tables."""
    rng = np.random.default_rng(0)
    show_packing(rng)
    lengths = np.load(Path(sys.argv[1])) if len(sys.argv) > 1 else drawn(rng, 1000)["lognormal, median 150"]
    for micro, accumulation in ((2, 1), (2, 4), (8, 1)):
        show_shares(lengths, micro, accumulation)


if __name__ == "__main__":
    main()
