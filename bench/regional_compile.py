"""Whether compiling a model's layers pays on a CPU, its first steps included: `python bench/regional_compile.py [layers]`.

Steps of LoRA on a random Llama (width 384, 4 layers or the number given) over packed rows of changing length, as training has
them. Ways take turns on one thread: as transformers computes it, with hone's fused operations, and those layers compiled by
torch (`dynamic=True`, so that a new length compiles nothing anew). cold: CPU seconds of the first three steps beyond three
later ones, those of the compiler's processes included; steady: median of the later steps' ratio to the plain one. A way whose
loss is another stops the script.

2026-11-30, one thread of 2 cores shared with other work (load 15), AMD EPYC, torch 2.13.0, 4 layers, plain and compiled as in
transformers 5.23: in fp32 compiled layers take 0.92 of plain (fused ones 1.00) after 51 s of compiling, which 1,783 steps of
0.36 s earn back; in bf16 0.87 (fused 0.94) after 33 s, which 961 steps of 0.26 s do. So hone does not compile by itself, and
offers no key for it until a GPU has shown more.
"""

from __future__ import annotations

import os

os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # in this process, where its time is counted
os.environ.setdefault("TORCHINDUCTOR_FORCE_DISABLE_CACHES", "1")  # a cold start is one without the last run's code

import copy
import statistics
import sys
import time

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from hone.adapters.apply import attach as adapt
from hone.chat.encoded import Encoded
from hone.config.adapter import Lora
from hone.data.batch import Batch, pack
from hone.kernels.attach import OPERATIONS, attach
from hone.models.policy import Policy

STEPS, COLD = 12, 3


def rows() -> list[Batch]:
    """Packed rows of two to four texts of 60 to 200 tokens."""
    draw, made = np.random.default_rng(0), []
    for _ in range(STEPS):
        texts = [draw.integers(3, 8192, length).astype(np.int32) for length in draw.integers(60, 200, draw.integers(2, 5))]
        made.append(pack([Encoded(ids, np.concatenate([[-100], ids[1:]]).astype(np.int32)) for ids in texts]))
    return made


def ways(layers: int, dtype: torch.dtype) -> dict[str, Policy]:
    """The same model, adapted alike."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama", vocab_size=8192, hidden_size=384, intermediate_size=1024, num_hidden_layers=layers, num_attention_heads=6
    )
    base, made = AutoModelForCausalLM.from_config(config, dtype=dtype).train(), {}
    base.config.use_cache = False
    for name in ("plain", "fused", "compiled"):
        module = copy.deepcopy(base)
        if name == "fused":
            attach(module, OPERATIONS)
        torch.manual_seed(1)
        tuned = adapt(module, Lora(), base_name="random", trained_dtype=dtype)
        if name == "compiled":
            for layer in module.model.layers:
                layer.compile(dynamic=True)
        made[name] = Policy(tuned)
    return made


def cpu_seconds() -> float:
    """Of this process and those that it has waited for."""
    return sum(os.times()[:4])


def main(layers: int) -> None:
    """Print a line a way."""
    for dtype in (torch.float32, torch.bfloat16):
        policies = ways(layers, dtype)
        taken: dict[str, list[float]] = {name: [] for name in policies}
        for row in rows():
            losses = {}
            for name, policy in policies.items():
                start = cpu_seconds()
                loss = policy.token_logprobs(row).sum()
                loss.backward()
                taken[name].append(cpu_seconds() - start)
                losses[name] = loss.item()
                policy.module.zero_grad()
            bound = 1e-5 if dtype == torch.float32 else 5e-3
            assert all(abs(loss / losses["plain"] - 1) < bound for loss in losses.values()), losses
        for name, seconds in taken.items():
            steady = statistics.median(one / other for one, other in zip(seconds[COLD:], taken["plain"][COLD:], strict=True))
            later = statistics.median(seconds[COLD:])
            cold = sum(seconds[:COLD]) - COLD * later
            saved = statistics.median(taken["plain"][COLD:]) * (1 - steady)
            pays = f"pays after {cold / saved:,.0f} steps" if saved > 0 and cold > 0 else ""
            title = f"{str(dtype)[6:]:<10}{name:<10}"
            print(f"{title}cold {cold:>7.1f} s, then {later:>6.2f} s a step, {steady:.2f} of plain  {pays}", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    start = time.monotonic()
    main(int(sys.argv[1]) if sys.argv[1:] else 4)
    print(f"{time.monotonic() - start:.0f} s")
