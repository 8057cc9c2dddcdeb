"""Fused operations on a GPU, equality first, then speed: `python bench/gpu/fused_ops.py`. Not yet run on a device.

At the shapes of Llama-3-8B on 16,384 tokens (--tokens), forward and backward, in bf16 and fp32: plain torch, the same compiled
by torch, hone's passes in plain torch and in Triton, and Liger's where liger-kernel is installed. apart: the largest difference
to the plain form in fp32, as a part of its largest number, over results and gradients; a Triton form that is further off than
twice what plain torch is in that type is marked WRONG and makes the script fail. GB/s: what has to be read and
written, each tensor once a pass, by time. Last, a small Llama in bf16 with every operation fused in Triton beside its plain twin.
`--toy` runs all but the compiled form on a CPU, on a few rows, Triton's in its interpreter, if there is one: a rehearsal.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from hone.kernels import gated, rms_norm, rope
from hone.kernels.attach import OPERATIONS, attach
from hone.kernels.passes import has_triton, in_triton

TOY = "--toy" in sys.argv
if TOY:
    os.environ["TRITON_INTERPRET"] = "1"  # read where a kernel is defined, which is when it is first asked for
WIDTH, WIDE, HEADS, FEWER, HEAD = (48, 96, 4, 2, 8) if TOY else (4096, 14336, 32, 8, 128)
ROUNDS = 1 if TOY else 10
DEVICE = torch.device("cpu" if TOY else "cuda")
Way = Callable[..., object]


def cases(tokens: int) -> dict[str, tuple[dict[str, Way], list[tuple[tuple[int, ...], bool]], int]]:
    """By name: the ways; shapes of the inputs, each with whether it needs a gradient; and how often those that do are moved.

    A norm reads x twice, writes y and the gradient of x, and reads that of y: 5 times x. A product: 4 times gate and up.
    """
    norm, turn = rms_norm.Norm(1e-5), rope.Rope()

    def heads(way: Way) -> Way:
        return lambda q, k, cos, sin: way(q.transpose(1, 2), k.transpose(1, 2), cos, sin)

    norms = {
        "plain": lambda x, w: rms_norm.reference(x, w, norm),
        "torch": lambda x, w: rms_norm.fused(x, w, norm),
    }
    products = {
        "plain": lambda g, u: gated.reference(g, u, "silu"),
        "torch": lambda g, u: gated.fused(g, u, "silu"),
    }
    turns = {
        "plain": heads(lambda *given: rope.reference(*given, turn)),
        "torch": heads(lambda *given: rope.fused(*given, turn)),
    }
    if has_triton() or not TOY:
        for_norms, for_products, for_turns = map(in_triton, ("rms_norm", "gated", "rope"))
        norms["Triton"] = lambda x, w: rms_norm.fused(x, w, norm, for_norms)
        products["Triton"] = lambda g, u: gated.fused(g, u, "silu", for_products)
        turns["Triton"] = heads(lambda *given: rope.fused(*given, turn, for_turns))
    if find_spec("liger_kernel"):
        from liger_kernel.transformers import functional as liger

        norms["Liger"] = lambda x, w: liger.liger_rms_norm(x, w, norm.eps)
        products["Liger"] = lambda g, u: liger.liger_swiglu(g, u)
        turns["Liger"] = heads(lambda *given: liger.liger_rope(*given))
    angles = [((1, tokens, HEAD), False)] * 2
    row = [((1, tokens, WIDE), True)] * 2
    return {
        "rms_norm, frozen": (norms, [((1, tokens, WIDTH), True), ((WIDTH,), False)], 5),
        "rms_norm, trained": (norms, [((1, tokens, WIDTH), True), ((WIDTH,), True)], 5),
        "gated": (products, row, 4),
        "rope": (turns, [((1, tokens, HEADS, HEAD), True), ((1, tokens, FEWER, HEAD), True), *angles], 4),
    }


def outcome(way: Way, inputs: list[Tensor]) -> list[Tensor]:
    """Results and gradients. Inputs are copies: Liger's backward passes write into what they were given."""
    copies = [one.detach().clone().requires_grad_(one.requires_grad) for one in inputs]
    views = [one * 1 if one.requires_grad else one for one in copies]
    made = way(*views)
    results = made if isinstance(made, tuple) else (made,)
    torch.autograd.backward(results, [torch.ones_like(one) for one in results])
    return [*(one.detach().clone() for one in results), *(one.grad for one in copies if one.requires_grad)]


def apart(ours: list[Tensor], exact: list[Tensor]) -> float:
    """The largest difference, as a part of the largest number."""
    return max(float((one.float() - two).abs().max() / two.abs().max()) for one, two in zip(ours, exact, strict=True))


def milliseconds(way: Way, inputs: list[Tensor]) -> float:
    """Of forward and backward, the median of ROUNDS after three that are not counted."""
    made = way(*inputs)
    slopes = [torch.ones_like(one) for one in (made if isinstance(made, tuple) else (made,))]
    taken = []
    for number in range(ROUNDS + 3):
        views = [one.detach().clone().requires_grad_(one.requires_grad) for one in inputs]
        wait()
        started = time.perf_counter()
        made = way(*views)
        torch.autograd.backward(made if isinstance(made, tuple) else (made,), slopes)
        wait()
        if number >= 3:
            taken.append(1e3 * (time.perf_counter() - started))
    return sorted(taken)[len(taken) // 2]


def wait() -> None:
    """Until the device has done what it was told."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def operations(tokens: int) -> bool:
    """Print a line a way; whether all Triton forms are right."""
    right = True
    for title, (ways, shapes, times) in cases(tokens).items():
        for dtype in (torch.bfloat16, torch.float32):
            torch.manual_seed(0)
            inputs = [torch.randn(shape, device=DEVICE).to(dtype).requires_grad_(needs) for shape, needs in shapes]
            exact = outcome(ways["plain"], [one.detach().float().requires_grad_(one.requires_grad) for one in inputs])
            bound = max(2 * apart(outcome(ways["plain"], inputs), exact), 1e-5)
            moved = times * sum(one.nbytes for one in inputs if one.requires_grad)
            torch.compiler.reset()
            for name, way in (ways if TOY else {**ways, "compiled": torch.compile(ways["plain"])}).items():
                off = apart(outcome(way, inputs), exact)
                time = milliseconds(way, inputs)
                wrong = "  WRONG" if name == "Triton" and off > bound else ""
                right = right and not wrong
                said = f"{title:<20}{str(dtype)[6:]:<10}{name:<10}{time:>9.3f} ms{moved / time / 1e6:>8.0f} GB/s"
                print(f"{said}  apart {off:.1e}{wrong}", flush=True)
    return right


def whole_model() -> bool:
    """Whether loss and gradients of a small Llama are the plain ones, within what bf16 rounds."""
    config = AutoConfig.for_model(
        "llama", vocab_size=1000, hidden_size=512, intermediate_size=1536, num_hidden_layers=4, num_attention_heads=8
    )
    torch.manual_seed(0)
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).to(DEVICE).train()
    fused = copy.deepcopy(plain)
    print(attach(fused, OPERATIONS, triton=not TOY))
    ids = torch.randint(1000, (1, 77 if TOY else 777), device=DEVICE)
    losses = [module(input_ids=ids, labels=ids, use_cache=False).loss for module in (plain, fused)]
    for loss in losses:
        loss.backward()
    pairs = [(one.grad.float(), other.grad.float()) for one, other in zip(plain.parameters(), fused.parameters(), strict=True)]
    worst = max(float((one - other).norm() / one.norm()) for one, other in pairs)
    print(
        f"a small Llama: losses {losses[0].item():.5f} and {losses[1].item():.5f}, gradients apart by {worst:.1e} of their norm"
    )
    return worst < 0.05 and abs(losses[1].item() / losses[0].item() - 1) < 2e-3


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=5 if TOY else 16384)
    parser.add_argument("--toy", action="store_true")
    print(f"{'a CPU: a toy' if TOY else torch.cuda.get_device_name()}, torch {torch.__version__}")
    checks = [operations(parser.parse_args().tokens), whole_model()]
    sys.exit(not all(checks))
