"""What oneDNN's caches of prepared products cost and save on a CPU: `python bench/cpu_cache.py [steps] [rounds]`.

Knows nothing of data or plans. Trains a random Llama, each capacity in a child process, with fixed and with varying lengths,
and prints one table: resident memory early and late, processor time a token, and its ratio to the largest capacity.

Where the CPU has no bfloat16 products torch leaves oneDNN out; there the linear layers call it directly, in float32.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import time
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from hone.models.prepared import CAPACITIES

TRIED = (8, 16, 32, 64, 128, 1024)
SHORTEST, FIXED, LONGEST = 60, 250, 440
EARLY = 10


class OneDnnLinear(torch.autograd.Function):
    """x W^T and its two gradients, each a product by oneDNN."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, weight_OD: Tensor) -> Tensor:
        ctx.save_for_backward(x_ND, weight_OD)
        return product(x_ND, weight_OD)

    @staticmethod
    def backward(ctx: Any, slope_NO: Tensor) -> tuple[Tensor, Tensor]:
        x_ND, weight_OD = ctx.saved_tensors
        return product(slope_NO, weight_OD.T.contiguous()), product(slope_NO.T.contiguous(), x_ND.T.contiguous())


def product(left_ND: Tensor, right_OD: Tensor) -> Tensor:
    """left right^T."""
    return torch.ops.mkldnn._linear_pointwise(left_ND, right_OD, None, "none", [], "")


def make_model() -> tuple[nn.Module, str]:
    """A random Llama of 4 layers, width 256, and how its products come to oneDNN."""
    torch.manual_seed(0)
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=4000, hidden_size=256, intermediate_size=704, num_hidden_layers=4, **heads))
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return model.to(torch.bfloat16), "bfloat16"
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            layer.forward = lambda x, layer=layer: OneDnnLinear.apply(x.flatten(0, -2), layer.weight).unflatten(0, x.shape[:-1])
    return model, "float32 by its linear operator"


def resident_mib() -> float:
    """Resident memory of this process now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def child(kind: str, steps: int) -> None:
    """Train, and print memory after EARLY steps and at the end, and the median time a token of the steps between."""
    torch.set_num_threads(1)
    model, how = make_model()
    rng, times, early = random.Random(0), [], 0.0
    for step in range(steps):
        length = FIXED if kind == "fixed" else rng.randint(SHORTEST, LONGEST)
        ids_BT = torch.randint(0, 4000, (1, length))
        started = time.process_time()
        model(input_ids=ids_BT, labels=ids_BT, use_cache=False).loss.backward()
        model.zero_grad()
        times.append((time.process_time() - started) / length)
        early = resident_mib() if step + 1 == EARLY else early
    print(json.dumps({"early": early, "late": resident_mib(), "ms": 1e3 * statistics.median(times[EARLY:]), "how": how}))


def measure(kind: str, capacity: int, steps: int) -> dict[str, Any]:
    """One child's figures."""
    variables = os.environ | dict.fromkeys(CAPACITIES, str(capacity))
    command = [sys.executable, __file__, "child", kind, str(steps)]
    return json.loads(subprocess.run(command, env=variables, check=True, capture_output=True, text=True).stdout)


def main(steps: int = 60, rounds: int = 3) -> None:
    """The table. Rounds go over all capacities in turn, so that a busy moment falls on each alike."""
    cases = [(kind, capacity) for kind in ("fixed", "varying") for capacity in TRIED]
    found: dict[tuple[str, int], list[dict[str, Any]]] = {case: [] for case in cases}
    for _ in range(rounds):
        for case in cases:
            found[case].append(measure(*case, steps))
    print(f"oneDNN computes in {found[cases[0]][0]['how']}; {steps} steps, {rounds} rounds")
    print(f"{'lengths':<9}{'capacity':>9}{f'MiB at {EARLY}':>11}{f'MiB at {steps}':>11}{'ms a token':>12}{'ratio':>8}")
    for kind, capacity in cases:
        runs, most = found[kind, capacity], found[kind, TRIED[-1]]
        early, late, ms = (statistics.median(run[name] for run in runs) for name in ("early", "late", "ms"))
        ratio = statistics.median(run["ms"] / other["ms"] for run, other in zip(runs, most, strict=True))
        print(f"{kind:<9}{capacity:>9}{early:>11.0f}{late:>11.0f}{ms:>12.3f}{ratio:>8.2f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        child(sys.argv[2], int(sys.argv[3]))
    else:
        main(*map(int, sys.argv[1:]))
