"""The one place where peft's LoRA layers are given to the kernel of few products, each kind of layer after a trial of it.

Does not know the kernel's mathematics, how layers come to be adapted, nor what is trained with them.

A layer keeps its class of peft's, as a subclass, its weights and their names: saving, merging and switching adapters are peft's.
"""

from __future__ import annotations

from collections import Counter
from functools import cache

import torch
from peft.tuners.lora import Linear, LoraLayer
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.module import Module

from hone import log
from hone.adapters.four_bits import FourBits
from hone.kernels import lora_linear
from hone.kernels.lora_linear import Held

_TOKENS = 5
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}
_TOLERANCE_16 = 0.05
"""Of the largest number: 16-bit results of sums in another order are a few units of 2^-8 apart."""


class Fused:
    """What a LoRA layer of peft's becomes: its plain case in few products, every other as peft computes it."""

    def forward(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:
        """As peft's: one adapter that is on, unmerged and plain is fused."""
        name = None if args or kwargs else _plain_adapter(self)
        if name is None or _is_watched(self, name):
            return super().forward(x, *args, **kwargs)
        base, down, up = self.base_layer, self.lora_A[name].weight, self.lora_B[name].weight
        dropout = self.lora_dropout[name]
        share = dropout.p if dropout.training and isinstance(dropout, nn.Dropout) else 0.0
        weight = _frozen_weight(base)
        dtype = lora_linear.product_dtype(x, *([weight] if isinstance(weight, Tensor) else []), down, up)
        if dtype is None:
            return super().forward(x)
        if isinstance(weight, Held) and not weight.restores(dtype):
            weight = None
        if weight is None:
            return lora_linear.beside(x, base(x), down, up, self.scaling[name], share)
        return lora_linear.linear(x, weight, base.bias, down, up, self.scaling[name], share)


def fuse(module: nn.Module) -> None:
    """Let the LoRA layers of `module` be computed in few products; what is left to peft's own forward is said once, with why.

    Each kind of layer (its classes, shapes and types) is tried on a few random tokens against peft's forward, gradients too.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, LoraLayer) and isinstance(layer, nn.Module)]
    outcomes: dict[tuple[object, ...], str] = {}
    left: Counter[str] = Counter()
    for layer in layers:
        kind = _kind(layer)
        if kind not in outcomes:
            outcomes[kind] = _why_not(layer) or _differs(layer)
        if outcomes[kind]:
            left[outcomes[kind]] += 1
        else:
            layer.__class__ = _fused_class(type(layer))
    if left:
        reasons = "; ".join(f"{number}: {why}" for why, number in left.items())
        log.once(f"{left.total()} of {len(layers)} adapted layers are computed as peft does, slower, same result ({reasons})")


@cache
def _fused_class(kind: type[nn.Module]) -> type[nn.Module]:
    return type(f"Fused{kind.__name__}", (Fused, kind), {})


def _plain_adapter(layer: LoraLayer) -> str | None:
    """The one adapter that is on, where it is a product of two matrices and nothing else."""
    active = layer.active_adapters
    if layer.disable_adapters or layer.merged or len(active) != 1:
        return None
    name = active[0]
    return name if name in layer.lora_A and name not in layer.lora_variant and not layer.lora_bias[name] else None


def _is_watched(layer: LoraLayer, name: str) -> bool:
    """Whether a part that would not be called carries hooks, such as those of an engine that fetches its weights when it is."""
    return any(
        part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks
        for part in (layer.base_layer, layer.lora_A[name], layer.lora_B[name], layer.lora_dropout[name])
    )


def _frozen_weight(base: Module) -> Tensor | Held | None:
    """[O, D] of a plain linear layer, or of GPT-2's, which holds it turned, or where it lies in few bits what turns it back.

    None where the layer alone knows it, or it learns; on a GPU bitsandbytes' products may be better than ours from 4 bits, until
    it was measured (`ahead` puts ours there where they are asked for).
    """
    if any(weight.requires_grad for weight in base.parameters(recurse=False)):
        return None
    if type(base) is nn.Linear:
        return base.weight
    if isinstance(base, Held):
        return base
    if type(base).__name__ == "Linear4bit":
        return vars(base).get("four_bits") or (FourBits(base) if base.weight.device.type == "cpu" else None)
    return base.weight.T if type(base).__name__ == "Conv1D" else None


def _kind(layer: nn.Module) -> tuple[object, ...]:
    described = [(name, tuple(weight.shape), weight.dtype) for name, weight in layer.named_parameters()]
    return type(layer), type(layer.base_layer), repr(layer.lora_dropout), *described


def _why_not(layer: nn.Module) -> str:
    if type(layer) is not Linear and type(layer).__name__ not in ("Linear4bit", "Linear8bitLt"):
        return f"{type(layer).__name__} of {type(layer.base_layer).__name__} is no linear layer"
    name = _plain_adapter(layer)
    if name is None:
        kinds = {type(variant).__name__ for variant in layer.lora_variant.values()}
        return f"{'/'.join(sorted(kinds)) or 'bias'} is more than a product of two matrices"
    return ""


def _differs(layer: nn.Module) -> str:
    """How the fused forward differs from peft's on a few random tokens, in the result or a gradient; "" where it does not."""
    name = _plain_adapter(layer)
    base, own = layer.base_layer, type(layer)
    if base.weight.is_meta:
        return ""  # a draft, which has no numbers
    down, up = layer.lora_A[name].weight, layer.lora_B[name].weight
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(down.device, down.dtype).requires_grad_()

    x, inputs = drawn(1, _TOKENS, down.shape[1]), (drawn(*down.shape), drawn(*up.shape))
    slope = drawn(1, _TOKENS, up.shape[0]).detach()
    compute = base.weight.dtype if base.weight.is_floating_point() else down.dtype
    found = []
    for kind in (own, _fused_class(own)):
        layer.__class__ = kind
        try:
            found.append(_tried(layer, name, x, inputs, slope, compute))
        finally:
            layer.__class__ = own
    tolerance = _TOLERANCE.get(compute, _TOLERANCE_16)
    gaps = [float((new - old).abs().max() / old.abs().max().clamp_min(1e-30)) for old, new in zip(*found, strict=True)]
    return "" if max(gaps) <= tolerance else f"a difference of {max(gaps):.2g} in the trial"


def _tried(
    layer: nn.Module, name: str, x: Tensor, inputs: tuple[Tensor, Tensor], slope: Tensor, compute: torch.dtype
) -> list[Tensor]:
    """The result and the gradients of x, down and up, in fp32; random numbers elsewhere stay as they were."""
    weights = dict(zip((f"lora_A.{name}.weight", f"lora_B.{name}.weight"), inputs, strict=True))
    devices = [x.device] if x.device.type == "cuda" else []
    mixed = compute != x.dtype
    with torch.random.fork_rng(devices), torch.enable_grad(), torch.autocast(x.device.type, dtype=compute, enabled=mixed):
        torch.manual_seed(0)
        result = functional_call(layer, weights, (x,))
        gradients = torch.autograd.grad(result, (x, *inputs), slope.to(result.dtype))
    return [tensor.detach().float() for tensor in (result, *gradients)]
