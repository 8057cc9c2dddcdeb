"""A frozen linear layer whose weights are held in 8 bits of floating point (e4m3) with a scale for each output, and its gradient.

Does not know whose layer it is. Products in 8 bits, for NVIDIA GPUs from Ada on, have not run on a device: they are proven by
torch's own on a CPU, and on a device they serve only after a trial there.

Axes: T token, D width of the input, O width of the output.

Scales are powers of two, so that the weights that are held come back exactly, in any type and in both forms of the product: what
differs is that products in 8 bits round what comes in too, the input and, in the backward pass, the gradient, token by token.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hone import log
from hone.kernels.cpu_product import product
from hone.kernels.machine import ADA, capability_of
from hone.kernels.passes import has_triton, rounding_in_triton
from hone.kernels.selfcheck import undisturbed

TYPE = torch.float8_e4m3fn
LARGEST = torch.finfo(TYPE).max
_MULTIPLE = 16
"""torch's product in 8 bits takes widths that are multiples of it."""
WIDEST = 2**15
"""Numbers of a row that one Triton program rounds."""
_NEAR = 0.1
"""Of the largest number, in a trial: three bits of mantissa on both sides leave a few hundredths; a wrong scale leaves ones."""


def held(weight_OD: Tensor) -> tuple[Tensor, Tensor]:
    """(bits, scales): uint8 [O, D], e4m3 that no cast of a whole model touches; fp32 [O], powers of two."""
    numbers = weight_OD.float()
    largest_O = numbers.abs().amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
    scale_O = torch.exp2(torch.ceil(torch.log2(largest_O / LARGEST)).clamp(-126, 127))
    return (numbers / scale_O.unsqueeze(1)).clamp(-LARGEST, LARGEST).to(TYPE).view(torch.uint8), scale_O


def restored(bits_OD: Tensor, scale_O: Tensor, dtype: torch.dtype) -> Tensor:
    """[O, D] in `dtype`: the numbers that are held."""
    return bits_OD.view(TYPE).to(dtype).mul_(scale_O.to(dtype).unsqueeze(1))


def supports(device: torch.device, dtype: torch.dtype, shape: tuple[int, ...]) -> bool:
    """Whether there are products in 8 bits for weights of this shape, with a result in `dtype`."""
    whole = all(width % _MULTIPLE == 0 for width in shape)
    return capability_of(device) >= ADA and dtype == torch.bfloat16 and whole


def linear(x: Tensor, bits_OD: Tensor, scale_O: Tensor, bias_O: Tensor | None, dtype: torch.dtype) -> Tensor:
    """[*, O] in `dtype`: x [*, D] times the weights, plus bias; with a gradient of x, for which the weights alone are kept."""
    return _Linear.apply(x, bits_OD, scale_O, bias_O, dtype, in_8_bits(bits_OD, dtype))


def in_8_bits(bits_OD: Tensor, dtype: torch.dtype) -> bool:
    """Whether products of these weights are taken in 8 bits where they lie."""
    return supports(bits_OD.device, dtype, tuple(bits_OD.shape)) and _passes(bits_OD.device)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, bits_OD: Tensor, scale_O: Tensor, bias_O: Tensor | None, dtype: torch.dtype, eight: bool
    ) -> Tensor:
        ctx.save_for_backward(bits_OD, scale_O)
        ctx.kind, ctx.dtype, ctx.eight = x.dtype, dtype, eight
        x_TD = x.reshape(-1, x.shape[-1]).to(dtype)
        bias_O = None if bias_O is None else bias_O.to(dtype)
        if eight:
            y_TO = multiplied(x_TD, bits_OD.view(TYPE), scale_O, dtype)
            y_TO = y_TO if bias_O is None else y_TO.add_(bias_O)
        else:
            y_TO = product(x_TD, restored(bits_OD, scale_O, dtype), bias_O)
        return y_TO.reshape(*x.shape[:-1], len(bits_OD))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        bits_OD, scale_O = ctx.saved_tensors
        slope_TO = gradient.reshape(-1, gradient.shape[-1]).to(ctx.dtype)
        if ctx.eight:  # each term of a sum has a scale of its own, which goes into the gradient, exactly
            turned_DO = bits_OD.view(TYPE).T.contiguous()
            ones_D = torch.ones_like(scale_O[:1]).expand(len(turned_DO)).contiguous()
            of_x_TD = multiplied(slope_TO, turned_DO, ones_D, ctx.dtype, scale_O)
        else:
            of_x_TD = product(slope_TO, restored(bits_OD, scale_O, ctx.dtype).T)
        return of_x_TD.to(ctx.kind).reshape(*gradient.shape[:-1], bits_OD.shape[1]), None, None, None, None, None


def multiplied(left_TK: Tensor, right_NK: Tensor, scale_N: Tensor, dtype: torch.dtype, factor_K: Tensor | None = None) -> Tensor:
    """[T, N]: left times factor, rounded to e4m3 with a scale for each token, times right turned, which is e4m3, by scale_N."""
    rounded_TK, scale_T1 = _rounding(left_TK.device, left_TK.shape[1] <= WIDEST)(left_TK, factor_K)
    scales = {"scale_a": scale_T1, "scale_b": scale_N.unsqueeze(0)}
    return torch._scaled_mm(rounded_TK, right_NK.T, **scales, out_dtype=dtype, use_fast_accum=True)


def rounded(left_TK: Tensor, factor_K: Tensor | None) -> tuple[Tensor, Tensor]:
    """(bits, scales): left times factor in e4m3, and fp32 [T, 1]; factors are powers of two, so that they round nothing."""
    left_TK = left_TK if factor_K is None else left_TK * factor_K.to(left_TK.dtype)
    scale_T1 = left_TK.abs().amax(dim=1, keepdim=True).float().clamp_min(1e-30) / LARGEST
    return (left_TK / scale_T1).clamp_(-LARGEST, LARGEST).to(TYPE), scale_T1


@lru_cache
def _rounding(device: torch.device, fits: bool) -> Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]:
    """The form that rounds: in one pass by Triton where a trial of it on the device finds the same, else as above."""
    if device.type != "cuda" or not fits or not has_triton():
        return rounded
    fault = trial_of_rounding(rounding_in_triton(), device)
    if fault:
        log.once(f"what comes into products in 8 bits is rounded by torch, as a kernel for it {fault}; slower, same result")
    return rounded if fault else rounding_in_triton()


def trial_of_rounding(way: Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]], device: torch.device) -> str:
    """How `way` differs from `rounded`; "" where it does not, but for a last bit in a hundred numbers."""
    draw = torch.Generator().manual_seed(0)
    with undisturbed():
        left = torch.randn((9, 129), generator=draw).to(device, torch.bfloat16)
        factor = torch.exp2(torch.arange(129, device=device) % 7 - 3.0)
        for given in (None, factor):
            wanted, scale = rounded(left, given)
            try:
                found, its = way(left, given)
            except Exception as problem:  # a compiler's errors are of many kinds
                return f"fails here ({str(problem).strip().splitlines()[0][:80]})"
            same = (wanted.view(torch.uint8) == found.view(torch.uint8)).float().mean()
            if not (same >= 0.99 and ((scale - its).abs() / scale).max() < 1e-5):
                return f"differs in {1 - float(same):.0%} of the numbers or in scales"
    return ""


@lru_cache
def _passes(device: torch.device) -> bool:
    """Whether products in 8 bits do on this device what they should; told once."""
    fault = trial(device)
    if fault:
        log.once(f"weights in float8 are turned back for each product, as those in 8 bits {fault}; the same weights, slower")
    else:
        log.once("products in 8 bits, which are new and round activations too: compare the loss with quantization_bit left out")
    return not fault


def trial(device: torch.device) -> str:
    """How products in 8 bits differ from those of the same weights in 16, forward and backward; "" where it is by rounding."""
    draw, dtype = torch.Generator().manual_seed(0), torch.bfloat16
    with undisturbed():
        x, weight, slope = (torch.randn(shape, generator=draw).to(device) for shape in ((37, 64), (48, 64), (37, 48)))
        bits, scale = held(weight * torch.linspace(0.01, 3, 48, device=device).unsqueeze(1))
        found = []
        for eight in (True, False):
            inputs = x.detach().to(dtype).requires_grad_()
            try:
                output = _Linear.apply(inputs, bits, scale, None, dtype, eight)
                found.append([output.detach().float(), torch.autograd.grad(output, inputs, slope.to(dtype))[0].float()])
            except (RuntimeError, ValueError, TypeError) as problem:
                return f"fail here ({str(problem).splitlines()[0][:80]})"
        apart = max(float((ours - theirs).abs().max() / theirs.abs().max()) for ours, theirs in zip(*found, strict=True))
    return "" if apart < _NEAR else f"differ by {apart:.2g} in their trial"
