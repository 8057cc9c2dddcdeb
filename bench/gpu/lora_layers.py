"""The adapted layers of a decoder layer on a GPU by peft, by hone and without adapters: `python bench/gpu/lora_layers.py`.

`--base nf4` and `--base fp8` hold the frozen weights so. Not yet run on a device; `--toy` runs it on a CPU. Knows no model: q, k,
v, o, gate, up and down of Llama-3-8B (--tokens 16,384), LoRA r16 in fp32, products in bf16, forward and backward, each layer by
itself. apart: the largest difference of a result or gradient to peft's, as a part of its largest number; above 0.05 the script
fails. kept: what the graph holds beyond weights and the layer's input.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from hone.adapters.fuse import Fused, fuse
from hone.models.float8 import Float8Linear

SHAPES = {"q, o": (4096, 4096), "k, v": (4096, 1024), "gate, up": (4096, 14336), "down": (14336, 4096)}
ROUNDS = 10


def frozen(wide: int, out: int, device: str, base: str) -> nn.Module:
    """A layer of random weights in the form of `base`."""
    layer = nn.Linear(wide, out, bias=False, device=device, dtype=torch.bfloat16)
    if base == "fp8":
        return Float8Linear(layer, torch.device(device))
    if base == "nf4":
        from bitsandbytes.nn import Linear4bit, Params4bit

        held = Linear4bit(wide, out, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4")
        held.weight = Params4bit(layer.weight.detach().cpu(), requires_grad=False, quant_type="nf4", compress_statistics=True)
        held.support_avx512bf16_for_cpu = False
        return held.to(device)
    return layer


def make_layer(wide: int, out: int, device: str, base: str) -> nn.Module:
    """One adapted layer, fused, its second matrix drawn too."""
    torch.manual_seed(0)
    holder = nn.Sequential(frozen(wide, out, device, base))
    tuned = get_peft_model(holder, LoraConfig(r=16, lora_alpha=32, target_modules=["0"]), autocast_adapter_dtype=False)
    layer = tuned.base_model.model[0]
    for name, weight in layer.named_parameters():
        if "lora_" in name:
            weight.data = weight.data.float()
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.02)
    fuse(tuned)
    assert isinstance(layer, Fused), "the trial found a difference"
    return layer


def passed(way: nn.Module, x: Tensor, device: str) -> tuple[list[Tensor], float, int]:
    """Result and gradients, seconds, and bytes kept for the backward pass."""
    x, held = x.detach().requires_grad_(), {}
    given = {tensor.untyped_storage().data_ptr() for tensor in (x, *way.parameters())}

    def note(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in given:
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    way.zero_grad()
    wait(device)
    started = time.perf_counter()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), torch.autocast(device, dtype=torch.bfloat16):
        y = way(x)
    y.backward(torch.ones_like(y))
    wait(device)
    taken = time.perf_counter() - started
    return [y.detach(), x.grad, *(one.grad for one in way.parameters() if one.grad is not None)], taken, sum(held.values())


def wait(device: str) -> None:
    """Until the device has done what it was told."""
    if device == "cuda":
        torch.cuda.synchronize()


def main() -> int:
    """One line a shape and way."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("--base", choices=["bf16", "nf4", "fp8"], default="bf16")
    parser.add_argument("--toy", action="store_true")
    said = parser.parse_args()
    device, tokens, by = ("cpu", 100, 32) if said.toy else ("cuda", said.tokens, 1)
    right = True
    for title, (wide, out) in SHAPES.items():
        layer = make_layer(wide // by, out // by, device, said.base)
        hone, peft = type(layer), type(layer).__mro__[2]
        x = torch.randn(1, tokens, wide // by, device=device, dtype=torch.bfloat16)
        found: dict[str, list[tuple[list[Tensor], float, int]]] = {"peft": [], "hone": [], "without": []}
        for _ in range(ROUNDS + 2):
            for name, kind in (("peft", peft), ("hone", hone), ("without", None)):
                layer.__class__ = kind or peft
                found[name].append(passed(layer if kind else layer.base_layer.requires_grad_(False), x, device))
        pairs = zip(found["hone"][-1][0], found["peft"][-1][0], strict=True)
        apart = max(float((one.float() - two.float()).abs().max() / two.float().abs().max()) for one, two in pairs)
        right = right and apart < 0.05
        for name, runs in found.items():
            taken, kept = 1e3 * statistics.median(seconds for _, seconds, _ in runs[2:]), runs[-1][2] / 2**20
            print(f"{title:<10}{name:<9}{taken:>9.3f} ms{kept:>9.1f} MiB kept{f'  apart {apart:.1e}' if name == 'hone' else ''}")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
