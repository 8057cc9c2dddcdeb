"""RMS normalisation in Triton: one program a row forward, several rows a program backward.

Does not know autograd; kernels/rms_norm says what is computed. Axes: N row, D width, P program.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from hone.kernels.gpu.launch import launches, num_programs, on_device_of
from hone.kernels.rms_norm import Norm


@triton.jit
def _forward(x, weight, y, rstd, width, eps, offset, WEIGHTED: tl.constexpr, ROUNDS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    given = tl.load(x + row * width + columns, mask=inside, other=0.0)
    numbers = given.to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(numbers * numbers, axis=0) / width + eps)
    tl.store(rstd + row, scale)
    unit = numbers * scale
    if ROUNDS:
        unit = unit.to(given.dtype).to(tl.float32)
    if WEIGHTED:
        unit = unit * (tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32) + offset)
    tl.store(y + row * width + columns, unit.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _backward(
    gradient, x, weight, rstd, of_x, of_weight, rows, width, offset,
    WEIGHTED: tl.constexpr, TRAINED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    summed = tl.zeros([BLOCK], dtype=tl.float32)
    if WEIGHTED:
        scales = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32) + offset
    for row in range(program, rows, tl.num_programs(0)):
        start = row * width
        numbers = tl.load(x + start + columns, mask=inside, other=0.0).to(tl.float32)
        of_y = tl.load(gradient + start + columns, mask=inside, other=0.0).to(tl.float32)
        scale = tl.load(rstd + row)
        unit = numbers * scale
        if TRAINED:
            summed += of_y * unit
        if WEIGHTED:
            of_y = of_y * scales
        shared = tl.sum(of_y * unit, axis=0) / width
        tl.store(of_x + start + columns, ((of_y - unit * shared) * scale).to(of_x.dtype.element_ty), mask=inside)
    if TRAINED:
        tl.store(of_weight + program * width + columns, summed, mask=inside)


def forward(x_ND: Tensor, weight_D: Tensor | None, norm: Norm) -> tuple[Tensor, Tensor]:
    """As kernels.rms_norm.forward."""
    x_ND, width = x_ND.contiguous(), x_ND.shape[-1]
    promoted = norm.rounds_first and weight_D is not None
    dtype = torch.promote_types(x_ND.dtype, weight_D.dtype) if promoted else x_ND.dtype
    y_ND = torch.empty_like(x_ND, dtype=dtype)
    rstd_N1 = torch.empty((*x_ND.shape[:-1], 1), dtype=torch.float32, device=x_ND.device)
    rows, block = rstd_N1.numel(), triton.next_power_of_2(width)
    if launches(x_ND):
        with on_device_of(x_ND):
            _forward[(rows,)](
                *(x_ND, x_ND if weight_D is None else weight_D, y_ND, rstd_N1, width, norm.eps, norm.offset),
                WEIGHTED=weight_D is not None,
                ROUNDS=norm.rounds_first,
                BLOCK=block,
                num_warps=_warps(block),
            )
    return y_ND, rstd_N1


def backward(
    gradient_ND: Tensor, x_ND: Tensor, weight_D: Tensor | None, rstd_N1: Tensor, norm: Norm, weight_needs: bool
) -> tuple[Tensor, Tensor | None]:
    """As kernels.rms_norm.backward; each program sums its rows' part of the weight's gradient, in fp32."""
    x_ND, gradient_ND, width = x_ND.contiguous(), gradient_ND.contiguous(), x_ND.shape[-1]
    rows, block = rstd_N1.numel(), triton.next_power_of_2(width)
    of_x_ND, programs = torch.empty_like(x_ND), num_programs(rows, x_ND.device)
    trained = weight_D is not None and weight_needs
    of_weight_PD = torch.zeros((programs, width) if trained else (1, 1), dtype=torch.float32, device=x_ND.device)
    if launches(x_ND):
        with on_device_of(x_ND):
            _backward[(programs,)](
                *(gradient_ND, x_ND, x_ND if weight_D is None else weight_D, rstd_N1, of_x_ND, of_weight_PD),
                *(rows, width, norm.offset),
                WEIGHTED=weight_D is not None,
                TRAINED=trained,
                BLOCK=block,
                num_warps=_warps(block),
            )
    return of_x_ND, of_weight_PD.sum(0).to(weight_D.dtype) if trained else None


def _warps(block: int) -> int:
    """So that a thread has 16 numbers of a row, up to 32 of the widest: with twice as many its registers do not suffice."""
    return min(max(block // 512, 1), 32)
