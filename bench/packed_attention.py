"""A packed row beside its sequences apart and beside a mask of all of it: `python bench/packed_attention.py [case ...]`.

Knows no formula: a random Llama's forward and backward pass of the same sequences, in turn, in one process on a CPU. Stops where
the log-probs differ. MiB: what a pass adds at its peak.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from shared_prompts import resident
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedModel

from hone.chat.encoded import Encoded
from hone.data.batch import pack
from hone.models.policy import Policy

VOCAB, ROUNDS = 4000, 3
SIZES = {
    "vocab_size": VOCAB, "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 2, "num_attention_heads": 8,
    "num_key_value_heads": 4, "max_position_embeddings": 8192,
}  # fmt: skip
UNEVEN = [37, 411, 150, 8, 263, 90, 518, 123]
CASES: dict[str, tuple[list[int], torch.dtype, int]] = {
    "8 x 200": ([200] * 8, torch.float32, 0),
    "8 x 200, bf16": ([200] * 8, torch.bfloat16, 0),
    "8 uneven, 1,600": (UNEVEN, torch.float32, 0),
    "40 x 40": ([40] * 40, torch.float32, 0),
    "4 x 1000": ([1000] * 4, torch.float32, 0),
    "4 x 1000, bf16": ([1000] * 4, torch.bfloat16, 0),
    "4 x 1000, window 256": ([1000] * 4, torch.float32, 256),
    "1 x 4000": ([4000], torch.float32, 0),
}
WAYS = ("row", "apart", "mask")


def make_model(dtype: torch.dtype, window: int) -> PreTrainedModel:
    """Always the same."""
    torch.manual_seed(0)
    if window:
        return MistralForCausalLM(MistralConfig(**SIZES, sliding_window=window)).to(dtype)
    return LlamaForCausalLM(LlamaConfig(**SIZES)).to(dtype)


def sequences(lengths: list[int]) -> list[Encoded]:
    """Random ids, all learned."""
    draw = np.random.default_rng(0)
    drawn = [draw.integers(0, VOCAB, length).astype(np.int32) for length in lengths]
    return [Encoded(ids, ids.copy()) for ids in drawn]


def passes(policy: Policy, parts: list[Encoded], way: str) -> Callable[[], float]:
    """One forward and backward pass of all sequences; the sum of their log-probs."""
    batches = [pack([part]) for part in parts] if way == "apart" else [pack(parts)]

    def run() -> float:
        policy.by_sequence, total = way != "mask", 0.0
        for batch in batches:
            logprobs = policy.token_logprobs(batch).sum()
            logprobs.backward()
            total += logprobs.item()
        return total

    return run


def measure(policy: Policy, run: Callable[[], float]) -> tuple[float, float, float]:
    """Sum of log-probs, CPU seconds and MiB of one pass."""
    policy.module.zero_grad()
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew
    held, started = resident("VmRSS"), time.process_time()
    total = run()
    return total, time.process_time() - started, resident("VmHWM") - held


def compare(name: str) -> str:
    """A row of the table: medians of the row's seconds and MiB, and of each round's ratios to the two other ways."""
    lengths, dtype, window = CASES[name]
    policy, parts = Policy(make_model(dtype, window).train()), sequences(lengths)
    runs = {way: passes(policy, parts, way) for way in WAYS}
    rounds = [[measure(policy, runs[way]) for way in WAYS] for _ in range(ROUNDS + 1)][1:]
    for found in rounds:
        totals = [total for total, _, _ in found]
        if max(totals) - min(totals) > 1e-3 * abs(totals[0]):
            raise SystemExit(f"{name}: log-probs differ: {totals}")
    numbers = torch.tensor(rounds, dtype=torch.float64)[:, :, 1:]
    own, ratios = numbers[:, 0].median(0).values, (numbers[:, :1] / numbers[:, 1:]).median(0).values
    cells = [*own.tolist(), *ratios[:, 0].tolist(), *ratios[:, 1].tolist()]
    return f"{name:<22}" + "".join(f"{cell:>14.2f}" for cell in cells)


def main(names: list[str]) -> None:
    """One line a case."""
    torch.set_num_threads(1)
    heads = ("seconds", "MiB", "time / apart", "time / mask", "MiB / apart", "MiB / mask")
    print(f"{'case':<22}" + "".join(f"{head:>14}" for head in heads))
    for name in names or CASES:
        print(compare(name), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
