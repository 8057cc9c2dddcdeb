"""Weights held in 4 or 8 bits by bitsandbytes while they are loaded, and frozen for an adapter on top.

Does not know adapters; the only file that needs bitsandbytes to hold weights.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import nn
from transformers import BitsAndBytesConfig

from hone.config.model import Quantization
from hone.errors import MissingExtra


def quantization_config(quantization: Quantization, dtype: torch.dtype) -> BitsAndBytesConfig:
    """What transformers needs to quantize while loading. dtype: of the products; MissingExtra without bitsandbytes."""
    if find_spec("bitsandbytes") is None:
        raise MissingExtra("bitsandbytes", "quant", f"quantization_bit: {quantization.bit}")
    if quantization.bit == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization.type,
        bnb_4bit_use_double_quant=quantization.double,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_storage=torch.uint8,
    )


def freeze(module: nn.Module) -> None:
    """No weight of a quantized base is trained: an adapter's are added after this."""
    for parameter in module.parameters():
        parameter.requires_grad_(False)
