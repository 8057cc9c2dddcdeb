"""How full packed rows are, and how evenly ranks share tokens: `python bench/packing.py [LENGTHS.npy | SHARED_DATA_DIR]`.

Lengths are drawn, or those of the file, an array of tokens a row, or of alpaca_en_demo with Llama 3.1's tokenizer,
from the folder that has LLaMA-Factory's demo sets (llamafactory) and tokenizers (tokenizers). CPU seconds of one thread.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from hone.chat.codec import build_codec
from hone.config import load
from hone.data.build import build_data
from hone.data.order import Steps
from hone.data.pack import best_fit_bins
from hone.models.tokenizer import load_tokenizer
from hone.objectives.build import build_objective

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


def of_alpaca(shared: Path) -> np.ndarray:
    """Tokens of each row of alpaca_en_demo, as `stage: sft` has them."""
    tokenizer = shared / "tokenizers" / "llama-3.1"
    words = [
        "stage=sft",
        "template=llama3",
        "dataset=alpaca_en_demo",
        f"dataset_dir={shared / 'llamafactory'}",
        "output_dir=none",
    ]
    run = load([f"model_name_or_path={tokenizer}", *words, "cutoff_len=2048"], "train")
    codec, objective = build_codec(run.chat, load_tokenizer(run.model)), build_objective(run.objective)
    with tempfile.TemporaryDirectory() as folder:
        data = run.data.model_copy(update={"tokenized_path": folder})
        return np.array(build_data(data, objective, codec, names=run.data.dataset, seed=0).lengths)


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
    given = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    if given is None:
        lengths = drawn(rng, 1000)["lognormal, median 150"]
    else:
        lengths = of_alpaca(given.resolve()) if given.is_dir() else np.load(given)
    print(f"\n{len(lengths):,} rows of {lengths.min()} to {lengths.max()} tokens, median {np.median(lengths):.0f}")
    for micro, accumulation in ((2, 1), (2, 4), (8, 1)):
        show_shares(lengths, micro, accumulation)


if __name__ == "__main__":
    main()
