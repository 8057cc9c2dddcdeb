"""RMS normalisation with its statistics in fp32: a reference, and a form that keeps the input and one number a row, not more.

Does not know modules; gpu/rms_norm has the passes in Triton.

Zhang & Sennrich 2019, eq. 4. Axes: N row (all leading axes), D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hone.kernels.passes import TYPES, Passes

WIDEST = 2**15
"""Numbers of a row that one Triton program holds: twice as many do not fit into a processor's registers."""


@dataclass(frozen=True)
class Norm:
    """What a family computes: x / sqrt(mean(x^2) + eps) * (offset + weight).

    rounds_first: the quotient is rounded to x's type and the product is in the promoted type of both (Llama); else the product
    is in fp32 and is rounded to x's type (Gemma, whose offset is 1).
    """

    eps: float
    offset: float = 0.0
    rounds_first: bool = True


def reference(x_ND: Tensor, weight_D: Tensor | None, norm: Norm) -> Tensor:
    """The specification, [..., D]; weight None stands for ones of x's type."""
    x32_ND = x_ND.float()
    unit_ND = x32_ND * torch.rsqrt(x32_ND.square().mean(-1, keepdim=True) + norm.eps)
    if weight_D is None:
        return unit_ND.to(x_ND.dtype)
    if norm.rounds_first:
        return _scale(weight_D, norm) * unit_ND.to(x_ND.dtype)
    return (_scale(weight_D.float(), norm) * unit_ND).to(x_ND.dtype)


def forward(x_ND: Tensor, weight_D: Tensor | None, norm: Norm) -> tuple[Tensor, Tensor]:
    """The result, and 1 / rms of each row in fp32, [..., 1]."""
    x32_ND = x_ND.float()
    norm_N1 = torch.linalg.vector_norm(x32_ND, dim=-1, keepdim=True)
    rstd_N1 = norm_N1.square_().div_(x_ND.shape[-1]).add_(norm.eps).rsqrt_()
    unit_ND = x32_ND * rstd_N1
    if weight_D is None:
        return unit_ND.to(x_ND.dtype), rstd_N1
    if not norm.rounds_first:
        return unit_ND.mul_(_scale(weight_D.float(), norm)).to(x_ND.dtype), rstd_N1
    unit_ND, scale_D = unit_ND.to(x_ND.dtype), _scale(weight_D, norm)
    fits = torch.result_type(unit_ND, scale_D) == unit_ND.dtype
    return unit_ND.mul_(scale_D) if fits else unit_ND * scale_D, rstd_N1


def backward(
    gradient_ND: Tensor, x_ND: Tensor, weight_D: Tensor | None, rstd_N1: Tensor, norm: Norm, weight_needs: bool
) -> tuple[Tensor, Tensor | None]:
    """Of x, in its type, and of the weight where it is trained. All of it is computed in fp32."""
    x32_ND, of_y_ND = x_ND.float(), gradient_ND.float()
    of_weight_D = None
    if weight_D is not None and weight_needs:
        of_weight_D = (of_y_ND * x32_ND).mul_(rstd_N1).flatten(0, -2).sum(0).to(weight_D.dtype)
    of_unit_ND = of_y_ND.clone() if weight_D is None else of_y_ND * _scale(weight_D.float(), norm)
    shrink_N1 = torch.linalg.vecdot(of_unit_ND, x32_ND).unsqueeze(-1).mul_(rstd_N1).mul_(rstd_N1).div_(-x_ND.shape[-1])
    return of_unit_ND.addcmul_(x32_ND, shrink_N1).mul_(rstd_N1).to(x_ND.dtype), of_weight_D


def _scale(weight_D: Tensor, norm: Norm) -> Tensor:
    return weight_D + norm.offset if norm.offset else weight_D


PLAIN = Passes(forward, backward)


def supports(device: torch.device, dtype: torch.dtype, width: int) -> bool:
    """Whether the Triton passes take rows of this width."""
    return device.type == "cuda" and dtype in TYPES and width <= WIDEST


def fused(x_ND: Tensor, weight_D: Tensor | None, norm: Norm, passes: Passes = PLAIN) -> Tensor:
    """The same as `reference`, [..., D]; x and 1 / rms are kept for the backward; a frozen weight's gradient is not formed."""
    return _Fused.apply(x_ND, weight_D, norm, passes)


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, weight_D: Tensor | None, norm: Norm, passes: Passes) -> Tensor:
        y_ND, rstd_N1 = passes.forward(x_ND, weight_D, norm)
        ctx.save_for_backward(x_ND, weight_D, rstd_N1)
        ctx.norm, ctx.passes = norm, passes
        return y_ND

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_ND: Tensor) -> tuple[Tensor | None, ...]:
        x_ND, weight_D, rstd_N1 = ctx.saved_tensors
        weight_needs = ctx.needs_input_grad[1]
        return *ctx.passes.backward(gradient_ND, x_ND, weight_D, rstd_N1, ctx.norm, weight_needs), None, None
