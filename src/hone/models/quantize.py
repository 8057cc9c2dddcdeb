"""Weights held in 4 or 8 bits, by bitsandbytes while they are loaded, and frozen for an adapter on top.

Does not know adapters; the only file that needs bitsandbytes to hold weights.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import nn
from transformers import BitsAndBytesConfig

from hone import log
from hone.config.model import Quantization
from hone.errors import MissingExtra


def quantization_config(quantization: Quantization, dtype: torch.dtype, whole: list[str] | None = None) -> BitsAndBytesConfig:
    """What transformers needs to quantize while loading; MissingExtra without bitsandbytes.

    dtype: of the products. whole: names of modules that stay as they are; None for the output head.
    """
    if find_spec("bitsandbytes") is None:
        raise MissingExtra("bitsandbytes", "quant", f"quantization_bit: {quantization.bit}")
    if quantization.bit == 8:
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=whole)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization.type,
        bnb_4bit_use_double_quant=quantization.double,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_storage=torch.uint8,
        llm_int8_skip_modules=whole,
    )


def in_float8(quantization: Quantization | None) -> bool:
    """Whether weights are held in 8 bits of floating point, for which no package is needed."""
    return quantization is not None and quantization.method == "fp8"


def tell_whole(module: nn.Module) -> None:
    """Say of experts that a family holds as one tensor a layer that they stay as they are: only linear layers are packed."""
    numbers = {path: weight.numel() for path, weight in module.named_parameters()}
    fused = sum(numbers[path] for path, weight in module.named_parameters() if weight.dim() == 3 and ".experts." in path)
    if fused:
        share = f"{fused:,} of {sum(numbers.values()):,} weights"
        log.once(f"quantization_bit: the experts' fused weights, {share}, stay as they are; only linear layers are packed")


def freeze(module: nn.Module) -> None:
    """No weight of a quantized base is trained: an adapter's are added after this.

    On a CPU with AVX512-BF16, bitsandbytes 0.50 repacks 4-bit weights at the first forward in evaluation mode; gradients through
    them are then wrong (as large as themselves) and say nothing. Its switch for that is turned off.
    """
    module.requires_grad_(False)
    for layer in module.modules():
        if type(layer).__name__ == "Linear4bit":
            layer.support_avx512bf16_for_cpu = False


def as_numbers(module: nn.Module, dtype: torch.dtype, device: torch.device) -> None:
    """Let the packed weights of layers in 4 bits be seen, bit by bit, as numbers of `dtype`, so that they are sent as others are.

    Their scales go to `device`, whole: an eighth of the weights' size at most. bitsandbytes finds them at the layer, and takes
    packed weights in any type. A weight whose bytes are no whole number of `dtype` stays as it is.
    """
    for layer in module.modules():
        if type(layer).__name__ == "Linear4bit" and layer.weight.numel() % dtype.itemsize == 0:
            layer.quant_state = layer.weight.quant_state
            layer.quant_state.to(device)
            bits = layer.weight.data.contiguous().view(-1).view(dtype).view(-1, 1)
            layer.weight = nn.Parameter(bits, requires_grad=False)
