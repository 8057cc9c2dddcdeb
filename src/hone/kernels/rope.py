"""Rotary position codes put on queries and keys: a reference, and a form with half the passes over memory, forward and backward.

Does not know modules, nor how the angles follow from positions; gpu/rope has the passes in Triton.

Su et al. 2021, eq. 34. Axes: B row, H head, T token, D width of a head, R its part that is turned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hone.kernels.passes import TYPES, Passes

WIDEST = 2**10
"""Numbers of a head that are turned, in one Triton program together with those of some other heads."""


@dataclass(frozen=True)
class Rope:
    """How a family turns the first R numbers of a head, by two: (a, b) -> (a cos - b sin, b cos + a sin).

    pairs: neighbours are turned together, else the first half with the second; in_fp32: computed in fp32 and rounded to the
    head's type, else in the promoted type of head and angles.
    """

    pairs: bool = False
    in_fp32: bool = False

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Views of what is turned together, [..., R / 2] each."""
        return (x[..., ::2], x[..., 1::2]) if self.pairs else x.chunk(2, dim=-1)


def reference(q_BHTD: Tensor, k_BHTD: Tensor, cos_BTR: Tensor, sin_BTR: Tensor, rope: Rope) -> tuple[Tensor, Tensor]:
    """The specification; k may have other heads than q. Each number has a cosine and a sine of its own, B may be 1 there."""
    return tuple(_by_definition(x_BHTD, cos_BTR.unsqueeze(1), sin_BTR.unsqueeze(1), rope) for x_BHTD in (q_BHTD, k_BHTD))


def _by_definition(x_BHTD: Tensor, cos_B1TR: Tensor, sin_B1TR: Tensor, rope: Rope) -> Tensor:
    turned, rest = x_BHTD[..., : cos_B1TR.shape[-1]], x_BHTD[..., cos_B1TR.shape[-1] :]
    if rope.in_fp32:
        turned = turned.float()
    first, second = rope.both(turned)
    across = torch.stack([-second, first], dim=-1).flatten(-2) if rope.pairs else torch.cat([-second, first], dim=-1)
    made = turned * cos_B1TR + across * sin_B1TR
    return torch.cat([made.to(x_BHTD.dtype) if rope.in_fp32 else made, rest], dim=-1)


def forward(q_BHTD: Tensor, k_BHTD: Tensor, cos_BTR: Tensor, sin_BTR: Tensor, rope: Rope) -> tuple[Tensor, Tensor]:
    """Both turned."""
    first_sin, second_sin = rope.both(sin_BTR.unsqueeze(1))
    sines = (-first_sin, second_sin)
    return tuple(_turn(x_BHTD, cos_BTR.unsqueeze(1), sines, rope, None) for x_BHTD in (q_BHTD, k_BHTD))


def backward(
    of_q_BHTD: Tensor, of_k_BHTD: Tensor, cos_BTR: Tensor, sin_BTR: Tensor, rope: Rope, dtypes: tuple[torch.dtype, torch.dtype]
) -> tuple[Tensor, Tensor]:
    """Turned back, in the types of q and k: a transposed rotation."""
    first_sin, second_sin = rope.both(sin_BTR.unsqueeze(1))
    sines, gradients = (second_sin, -first_sin), (of_q_BHTD, of_k_BHTD)
    return tuple(_turn(x, cos_BTR.unsqueeze(1), sines, rope, to) for x, to in zip(gradients, dtypes, strict=True))


def _turn(x_BHTD: Tensor, cos_B1TR: Tensor, sines: tuple[Tensor, Tensor], rope: Rope, to: torch.dtype | None) -> Tensor:
    """a cos + b sines[0], b cos + a sines[1]; `to`: type of the result, where it is not the family's."""
    num = cos_B1TR.shape[-1]
    dtype = torch.float32 if rope.in_fp32 else torch.result_type(x_BHTD, cos_B1TR)
    whole = x_BHTD.to(dtype)
    first, second = rope.both(whole[..., :num])
    out = torch.empty_like(whole)
    torch.mul(whole[..., :num], cos_B1TR, out=out[..., :num])
    out_first, out_second = rope.both(out[..., :num])
    out_first.addcmul_(second, sines[0].to(dtype))
    out_second.addcmul_(first, sines[1].to(dtype))
    out[..., num:] = whole[..., num:]
    return out.to(to or (x_BHTD.dtype if rope.in_fp32 else dtype))


PLAIN = Passes(forward, backward)


def supports(device: torch.device, dtype: torch.dtype, width: int) -> bool:
    """Whether the Triton passes turn this many numbers of a head."""
    return device.type == "cuda" and dtype in TYPES and width <= WIDEST


def fused(
    q_BHTD: Tensor, k_BHTD: Tensor, cos_BTR: Tensor, sin_BTR: Tensor, rope: Rope, passes: Passes = PLAIN
) -> tuple[Tensor, Tensor]:
    """The same as `reference`; only the angles are kept for the backward pass, which they get no gradient from."""
    return _Fused.apply(q_BHTD, k_BHTD, cos_BTR, sin_BTR, rope, passes)


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q_BHTD: Tensor, k_BHTD: Tensor, cos_BTR: Tensor, sin_BTR: Tensor, rope: Rope, passes: Passes
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(cos_BTR, sin_BTR)
        ctx.rope, ctx.passes, ctx.dtypes = rope, passes, (q_BHTD.dtype, k_BHTD.dtype)
        return passes.forward(q_BHTD, k_BHTD, cos_BTR, sin_BTR, rope)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_q_BHTD: Tensor, of_k_BHTD: Tensor) -> tuple[Tensor | None, ...]:
        return *ctx.passes.backward(of_q_BHTD, of_k_BHTD, *ctx.saved_tensors, ctx.rope, ctx.dtypes), None, None, None, None
