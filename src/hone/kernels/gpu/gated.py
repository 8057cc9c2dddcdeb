"""The gated product of a feed-forward layer in Triton: each number read once and written once, forward and backward.

Does not know autograd; kernels/gated says what is computed. Axes: N row, F width.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from hone.kernels.gated import Act
from hone.kernels.gpu.launch import launches, on_device_of

_BLOCK = 1024


@triton.jit
def _tanh(x):
    return 1.0 - 2.0 / (1.0 + tl.exp(2.0 * x))


@triton.jit
def _act(x, ACT: tl.constexpr):
    if ACT == "silu":
        return x / (1.0 + tl.exp(-x))
    elif ACT == "gelu_tanh":
        return 0.5 * x * (1.0 + _tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))
    else:
        return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))


@triton.jit
def _slope(x, ACT: tl.constexpr):
    """d act / d x."""
    if ACT == "silu":
        share = 1.0 / (1.0 + tl.exp(-x))
        return share * (1.0 + x * (1.0 - share))
    elif ACT == "gelu_tanh":
        bent = _tanh(0.7978845608028654 * (x + 0.044715 * x * x * x))
        return 0.5 * (1.0 + bent) + 0.5 * x * (1.0 - bent * bent) * 0.7978845608028654 * (1.0 + 0.134145 * x * x)
    else:
        return 0.5 * (1.0 + tl.erf(x * 0.7071067811865476)) + x * 0.3989422804014327 * tl.exp(-0.5 * x * x)


@triton.jit
def _forward(gate, up, out, width, gate_stride, up_stride, ACT: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    given = tl.load(gate + row * gate_stride + columns, mask=inside, other=0.0)
    acted = _act(given.to(tl.float32), ACT).to(given.dtype).to(tl.float32)
    made = acted * tl.load(up + row * up_stride + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * width + columns, made.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _backward(
    gradient, gate, up, of_gate, of_up, width, gradient_stride, gate_stride, up_stride, ACT: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    of_out = tl.load(gradient + row * gradient_stride + columns, mask=inside, other=0.0).to(tl.float32)
    given = tl.load(gate + row * gate_stride + columns, mask=inside, other=0.0)
    numbers = given.to(tl.float32)
    factor = tl.load(up + row * up_stride + columns, mask=inside, other=0.0).to(tl.float32)
    acted = _act(numbers, ACT).to(given.dtype).to(tl.float32)
    place = row * width + columns
    tl.store(of_gate + place, (of_out * factor * _slope(numbers, ACT)).to(of_gate.dtype.element_ty), mask=inside)
    tl.store(of_up + place, (of_out * acted).to(of_up.dtype.element_ty), mask=inside)


def forward(gate_NF: Tensor, up_NF: Tensor, act: Act) -> Tensor:
    """As kernels.gated.forward; gate and up may be the two halves of one tensor."""
    gate, up = _rows(gate_NF), _rows(up_NF)
    dtype = torch.promote_types(gate.dtype, up.dtype)
    out_NF = torch.empty(gate_NF.shape, dtype=dtype, device=gate.device)
    if launches(out_NF):
        with on_device_of(gate):
            _forward[_grid(gate)](gate, up, out_NF, gate.shape[1], gate.stride(0), up.stride(0), ACT=act, BLOCK=_BLOCK)
    return out_NF


def backward(gradient_NF: Tensor, gate_NF: Tensor, up_NF: Tensor, act: Act) -> tuple[Tensor, Tensor]:
    """As kernels.gated.backward."""
    gradient, gate, up = _rows(gradient_NF), _rows(gate_NF), _rows(up_NF)
    of_gate_NF = torch.empty(gate_NF.shape, dtype=gate.dtype, device=gate.device)
    of_up_NF = torch.empty(up_NF.shape, dtype=up.dtype, device=up.device)
    if launches(gradient):
        strides = (gradient.stride(0), gate.stride(0), up.stride(0))
        with on_device_of(gate):
            _backward[_grid(gate)](*(gradient, gate, up, of_gate_NF, of_up_NF, gate.shape[1], *strides), ACT=act, BLOCK=_BLOCK)
    return of_gate_NF, of_up_NF


def _rows(x_NF: Tensor) -> Tensor:
    """[N, F], whose numbers of a row are neighbours; a view of halves of a wider tensor."""
    rows = x_NF.reshape(-1, x_NF.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()


def _grid(rows: Tensor) -> tuple[int, int]:
    return len(rows), triton.cdiv(rows.shape[1], _BLOCK)
