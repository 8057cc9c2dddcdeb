"""The gated product of a feed-forward layer, act(gate) * up: a reference, and a form that keeps the two inputs, not more.

Does not know modules, nor the linear layers around it; gpu/gated has the passes in Triton.

Shazeer 2020, eq. 6. Axes: N row (all leading axes), F width of the feed-forward layer.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from hone.kernels.passes import TYPES, Passes

Act = Literal["silu", "gelu_tanh", "gelu"]
"""gelu_tanh: by its tanh approximation; gelu: exact, by erf."""
ACTS: tuple[Act, ...] = ("silu", "gelu_tanh", "gelu")


def reference(gate_NF: Tensor, up_NF: Tensor, act: Act) -> Tensor:
    """The specification, [..., F]."""
    return _act(gate_NF, act) * up_NF


def forward(gate_NF: Tensor, up_NF: Tensor, act: Act) -> Tensor:
    """The product, [..., F]."""
    acted_NF = _act(gate_NF, act)
    fits = torch.result_type(acted_NF, up_NF) == acted_NF.dtype
    return acted_NF.mul_(up_NF) if fits else acted_NF * up_NF


def backward(gradient_NF: Tensor, gate_NF: Tensor, up_NF: Tensor, act: Act) -> tuple[Tensor, Tensor]:
    """Of gate and up; act(gate) is computed again."""
    of_up_NF = forward(gate_NF, gradient_NF, act)
    of_acted_NF = gradient_NF * up_NF
    if act == "silu":
        of_gate_NF = torch.ops.aten.silu_backward(of_acted_NF, gate_NF)
    else:
        of_gate_NF = torch.ops.aten.gelu_backward(of_acted_NF, gate_NF, approximate=_APPROXIMATE[act])
    return of_gate_NF.to(gate_NF.dtype), of_up_NF.to(up_NF.dtype)


_APPROXIMATE = {"gelu_tanh": "tanh", "gelu": "none"}


def _act(gate_NF: Tensor, act: Act) -> Tensor:
    return functional.silu(gate_NF) if act == "silu" else functional.gelu(gate_NF, approximate=_APPROXIMATE[act])


PLAIN = Passes(forward, backward)


def supports(device: torch.device, dtype: torch.dtype, width: int) -> bool:
    """Whether the Triton passes take rows of this width, which may be any."""
    return device.type == "cuda" and dtype in TYPES and width > 0


def fused(gate_NF: Tensor, up_NF: Tensor, act: Act, passes: Passes = PLAIN) -> Tensor:
    """The same as `reference`, [..., F]; only gate and up are kept for the backward pass."""
    return _Fused.apply(gate_NF, up_NF, act, passes)


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_NF: Tensor, up_NF: Tensor, act: Act, passes: Passes) -> Tensor:
        ctx.save_for_backward(gate_NF, up_NF)
        ctx.act, ctx.passes = act, passes
        return passes.forward(gate_NF, up_NF, act)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_NF: Tensor) -> tuple[Tensor | None, ...]:
        return *ctx.passes.backward(gradient_NF, *ctx.saved_tensors, ctx.act), None, None
