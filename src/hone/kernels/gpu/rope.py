"""Rotary position codes in Triton: one program turns every head of queries and keys at a token, forward and back.

Does not know autograd; kernels/rope says what is computed. Axes: B row, H head, T token, D width of a head, R its part turned.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from hone.kernels.gpu.launch import launches, on_device_of
from hone.kernels.rope import Rope


@triton.jit
def _turn(
    x, out, cos_first, cos_second, sin_first, sin_second, heads, width, turned, head_stride, out_stride,
    PAIRS: tl.constexpr, HEADS: tl.constexpr, HALF: tl.constexpr, REST: tl.constexpr,
):  # fmt: skip
    """out: (a cos_first + b sin_first, b cos_second + a sin_second) of the turned numbers of each head; the rest is copied."""
    head = tl.arange(0, HEADS).to(tl.int64)[:, None]  # in a long row whose heads lie apart, heads are far from each other
    number = tl.arange(0, HALF)[None, :]
    inside = (head < heads) & (number < turned // 2)
    first = number * 2 if PAIRS else number
    second = number * 2 + 1 if PAIRS else number + turned // 2
    a = tl.load(x + head * head_stride + first, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(x + head * head_stride + second, mask=inside, other=0.0).to(tl.float32)
    kind = out.dtype.element_ty
    tl.store(out + head * out_stride + first, (a * cos_first + b * sin_first).to(kind), mask=inside)
    tl.store(out + head * out_stride + second, (b * cos_second + a * sin_second).to(kind), mask=inside)
    if REST:
        rest = turned + tl.arange(0, REST)[None, :]
        left = (head < heads) & (rest < width)
        tl.store(out + head * out_stride + rest, tl.load(x + head * head_stride + rest, mask=left, other=0.0).to(kind), mask=left)


@triton.jit
def _both(
    q, k, q_out, k_out, cos, sin, tokens, q_heads, k_heads, width, turned,
    q_row, q_head, q_token, k_row, k_head, k_token, angle_row,
    BACK: tl.constexpr, PAIRS: tl.constexpr, Q_HEADS: tl.constexpr, K_HEADS: tl.constexpr,
    HALF: tl.constexpr, REST: tl.constexpr,
):  # fmt: skip
    token = (tl.program_id(0) % tokens).to(tl.int64)
    row = (tl.program_id(0) // tokens).to(tl.int64)
    number = tl.arange(0, HALF)[None, :]
    inside = number < turned // 2
    first = number * 2 if PAIRS else number
    second = number * 2 + 1 if PAIRS else number + turned // 2
    angles = row * angle_row + token * turned
    cos_first = tl.load(cos + angles + first, mask=inside, other=0.0).to(tl.float32)
    cos_second = tl.load(cos + angles + second, mask=inside, other=0.0).to(tl.float32)
    sin_first = tl.load(sin + angles + first, mask=inside, other=0.0).to(tl.float32)
    sin_second = tl.load(sin + angles + second, mask=inside, other=0.0).to(tl.float32)
    to_first = sin_second if BACK else -sin_first
    to_second = -sin_first if BACK else sin_second
    q_place = q_out + (row * tokens + token) * q_heads * width
    k_place = k_out + (row * tokens + token) * k_heads * width
    _turn(
        q + row * q_row + token * q_token, q_place, cos_first, cos_second, to_first, to_second,
        q_heads, width, turned, q_head, width, PAIRS, Q_HEADS, HALF, REST,
    )  # fmt: skip
    _turn(
        k + row * k_row + token * k_token, k_place, cos_first, cos_second, to_first, to_second,
        k_heads, width, turned, k_head, width, PAIRS, K_HEADS, HALF, REST,
    )  # fmt: skip


def forward(q_BHTD: Tensor, k_BHTD: Tensor, cos_BTR: Tensor, sin_BTR: Tensor, rope: Rope) -> tuple[Tensor, Tensor]:
    """As kernels.rope.forward; the results lie token by token in memory, [B, T, H, D], as the projections give them."""
    dtypes = tuple(x.dtype if rope.in_fp32 else torch.promote_types(x.dtype, cos_BTR.dtype) for x in (q_BHTD, k_BHTD))
    return _launch(q_BHTD, k_BHTD, cos_BTR, sin_BTR, rope, dtypes, back=False)


def backward(
    of_q_BHTD: Tensor, of_k_BHTD: Tensor, cos_BTR: Tensor, sin_BTR: Tensor, rope: Rope, dtypes: tuple[torch.dtype, torch.dtype]
) -> tuple[Tensor, Tensor]:
    """As kernels.rope.backward."""
    return _launch(of_q_BHTD, of_k_BHTD, cos_BTR, sin_BTR, rope, dtypes, back=True)


def _launch(
    q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, rope: Rope, dtypes: tuple[torch.dtype, ...], *, back: bool
) -> tuple[Tensor, Tensor]:
    q, k = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k))
    cos, sin = cos.contiguous(), sin.contiguous()
    made = tuple(_laid_out(x, dtype) for x, dtype in zip((q, k), dtypes, strict=True))
    rows, q_heads, tokens, width = q.shape
    k_heads, turned = k.shape[1], cos.shape[-1]
    q_block, k_block, half = map(triton.next_power_of_2, (q_heads, k_heads, turned // 2))
    if launches(q):
        with on_device_of(q):
            _both[(rows * tokens,)](
                *(q, k, *made, cos, sin, tokens, q_heads, k_heads, width, turned),
                *(*q.stride()[:3], *k.stride()[:3], cos.stride(0) if len(cos) > 1 else 0),
                BACK=back,
                PAIRS=rope.pairs,
                Q_HEADS=q_block,
                K_HEADS=k_block,
                HALF=half,
                REST=triton.next_power_of_2(width - turned) if width > turned else 0,
                num_warps=_warps(max(q_block, k_block) * half),
            )
    return made


def _warps(pairs: int) -> int:
    """So that a thread turns 16 pairs of a token's numbers; 64 would not fit into its registers."""
    return min(max(pairs // 512, 1), 16)


def _laid_out(x_BHTD: Tensor, dtype: torch.dtype) -> Tensor:
    rows, heads, tokens, width = x_BHTD.shape
    return torch.empty((rows, tokens, heads, width), dtype=dtype, device=x_BHTD.device).transpose(1, 2)
