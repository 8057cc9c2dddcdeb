"""Rows rounded to 8 bits of floating point in Triton, with a scale each: read once, written once in half the bytes.

Does not know what is multiplied; kernels/float8 says what is computed. Axes: T token, K width.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from hone.kernels.gpu.launch import launches, on_device_of


@triton.jit
def _round(x, factor, bits, scales, width, x_stride, FACTORED: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    numbers = tl.load(x + row * x_stride + columns, mask=inside, other=0.0).to(tl.float32)
    if FACTORED:
        numbers *= tl.load(factor + columns, mask=inside, other=0.0)
    scale = tl.maximum(tl.max(tl.abs(numbers), axis=0), 1e-30) / 448.0
    tl.store(scales + row, scale)
    tl.store(bits + row * width + columns, (numbers / scale).to(tl.float8e4nv), mask=inside)


def rounded(left_TK: Tensor, factor_K: Tensor | None) -> tuple[Tensor, Tensor]:
    """As kernels.float8.rounded."""
    left_TK = left_TK if left_TK.stride(1) == 1 else left_TK.contiguous()
    rows, width = left_TK.shape
    bits_TK = torch.empty((rows, width), dtype=torch.float8_e4m3fn, device=left_TK.device)
    scale_T1 = torch.empty((rows, 1), dtype=torch.float32, device=left_TK.device)
    block = triton.next_power_of_2(width)
    if launches(left_TK):
        with on_device_of(left_TK):
            _round[(rows,)](
                *(left_TK, scale_T1 if factor_K is None else factor_K, bits_TK, scale_T1, width, left_TK.stride(0)),
                FACTORED=factor_K is not None,
                BLOCK=block,
                num_warps=min(max(block // 512, 1), 32),
            )
    return bits_TK, scale_T1
