"""Weights held in 4 or 8 bits, by bitsandbytes while they are loaded, and frozen for an adapter on top.

Does not know adapters; the only file that needs bitsandbytes to hold weights.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import nn
from transformers import BitsAndBytesConfig

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


def freeze(module: nn.Module) -> None:
    """No weight of a quantized base is trained: an adapter's are added after this.

    On a CPU with AVX512-BF16, bitsandbytes 0.50 repacks 4-bit weights at the first forward in evaluation mode; gradients through
    them are then wrong (as large as themselves) and say nothing. Its switch for that is turned off.
    """
    module.requires_grad_(False)
    for layer in module.modules():
        if type(layer).__name__ == "Linear4bit":
            layer.support_avx512bf16_for_cpu = False
