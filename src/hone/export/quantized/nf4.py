"""bitsandbytes' 4-bit numbers, by the package itself: blocks of 64 along the rows, whose largest numbers are in 8 bits.

Does not know which weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hone.errors import MissingExtra


def nf4_parts(weight_OI: Tensor, kept: torch.dtype) -> dict[str, Tensor]:
    """The tensors that transformers finds of a weight. Raises: MissingExtra."""
    try:
        from bitsandbytes.functional import quantize_4bit
    except ModuleNotFoundError as fault:
        raise MissingExtra("bitsandbytes", "quant", "export_quantization_method: bnb") from fault
    packed, state = quantize_4bit(weight_OI.to(kept), blocksize=64, compress_statistics=True, quant_type="nf4")
    return {"weight": packed, **{f"weight.{name}": part for name, part in state.as_dict(packed=True).items()}}


def nf4_settings(kept: list[str]) -> dict[str, Any]:
    """Of config.json; products are computed in bfloat16, or as whoever loads it says."""
    said = {"quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False, "llm_int8_skip_modules": kept}
    said |= {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": "bfloat16"}
    return {"quantization_config": {**said, "bnb_4bit_quant_storage": "uint8"}}
