"""A step of AdamW on LoRA's many small weights, and the state of each optimizer: `python bench/optimizers.py`.

Knows no model. 448 matrices of rank 8, as of 32 layers; CPU seconds of one thread, each way in turn, medians.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from hone.config.optimizer import OptimizerConfig
from hone.optim.build import build_optimizer

SHAPES = ((512, 512), (512, 128), (512, 128), (512, 512), (512, 1376), (512, 1376), (1376, 512))
KINDS = ("adamw_torch", "adamw_bf16", "adamw_8bit", "lion_32bit", "lion_8bit", "adafactor", "rmsprop", "sgd")


def weights(layers: int, rank: int, dtype: torch.dtype) -> nn.ParameterList:
    """Both matrices of each linear layer, with gradients."""
    torch.manual_seed(0)
    made = [nn.Parameter(torch.randn(shape, dtype=dtype))
            for _ in range(layers) for i, o in SHAPES for shape in ((rank, i), (o, rank))]  # fmt: skip
    for weight in made:
        weight.grad = torch.randn_like(weight)
    return nn.ParameterList(made)


def show_times(rounds: int = 15) -> None:
    """Milliseconds of a step of AdamW."""
    ways: dict[str, Callable[[nn.ParameterList], torch.optim.Optimizer]] = {
        "a loop over weights": lambda held: torch.optim.AdamW(held.parameters(), foreach=False, fused=False),
        "lists of weights (foreach)": lambda held: torch.optim.AdamW(held.parameters(), foreach=True),
        "hone's adamw_torch": lambda held: build_optimizer(held, OptimizerConfig()),
    }
    optimizers = {way: make(weights(32, 8, torch.float32)) for way, make in ways.items()}
    times: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds + 1):
        for way, optimizer in optimizers.items():
            started = time.process_time()
            optimizer.step()
            if number:  # the first makes the state
                times[way].append(time.process_time() - started)
    print("| AdamW, 448 weights | ms a step |\n|---|---|")
    for way, found in times.items():
        print(f"| {way} | {1e3 * statistics.median(found):.1f} |")


def state_bytes(kind: str, dtype: torch.dtype) -> float:
    """Bytes a weight of the state after a step; of a matrix of a million weights, as small ones are never held in 8 bits."""
    held = nn.ParameterList([nn.Parameter(torch.randn(1024, 1024, dtype=dtype))])
    held[0].grad = torch.randn_like(held[0])
    optimizer = build_optimizer(held, OptimizerConfig(kind=kind))  # type: ignore[arg-type]
    optimizer.step()
    tensors = [one for state in optimizer.state.values() for one in state.values() if isinstance(one, torch.Tensor)]
    return sum(one.numel() * one.element_size() for one in tensors) / held[0].numel()


def main() -> None:
    """Both tables."""
    show_times()
    print("\n| optim | bytes a fp32 weight | bytes a bf16 weight |\n|---|---|---|")
    for kind in KINDS:
        found = [state_bytes(kind, dtype) for dtype in (torch.float32, torch.bfloat16)]
        print(f"| {kind} | {found[0]:.2f} | {found[1]:.2f} |")


if __name__ == "__main__":
    main()
