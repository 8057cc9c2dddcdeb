"""Attention of a packed row in one call of torch's own flash kernel for sequences of varied lengths, on CUDA from sm80 on.

Does not know the model. Not yet run on a device: a stand-in proves the calls on a CPU, and on a device the kernel serves only
after a trial there, forward and backward, against the form that goes by pieces.

Axes: B row (one), H head, K head of keys and values, T token, D width; S key as the kernel reads them, N piece.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from inspect import signature
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from hone import log
from hone.kernels.machine import AMPERE, capability_of
from hone.kernels.packed_attention import Layout, by_piece, keys_seen
from hone.kernels.selfcheck import undisturbed

Form = Callable[[Tensor, Tensor, Tensor, Layout, float], Tensor]
"""From queries, keys, values, layout and scale to [B, T, H, D], as `packed_attention.reference`."""

_TRIED = Layout(lengths=(9, 4, 1, 40, 3), given=(0, 5, 5, 0, 7), givers=(0, 0, 0, 0, 3))
_NEAR = 0.05
"""Of the largest element. Rounding in 16 bits is a hundredth of it; another set of keys that are seen, half of it and more."""
_ROUNDED_UP = 128
"""Rows that the backward pass may add to each piece."""


def supports(device: torch.device, dtype: torch.dtype, shape: tuple[int, int]) -> bool:
    """Whether there is a kernel for keys and values of these two widths."""
    width, value_width = shape
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16):
        return False
    return capability_of(device) >= AMPERE and width == value_width <= 256 and width % 8 == 0


def form_for(query_BHTD: Tensor, key_BKTD: Tensor, value_BKTD: Tensor, layout: Layout, scale: float) -> Form:
    """The kernel where it does the same as `by_piece`, else `by_piece`; a kernel that fails its trial is told once."""
    device, dtype, (_, heads, _, width) = query_BHTD.device, query_BHTD.dtype, query_BHTD.shape
    if not supports(device, dtype, (width, value_BKTD.shape[3])):
        return by_piece
    takes = _takes(varlen_attn)  # 2.10 has neither of the two, 2.11 both
    if (layout.window and "window_size" not in takes) or (scale != width**-0.5 and "scale" not in takes):
        return by_piece
    rows = layout.tokens + sum(layout.given) + _ROUNDED_UP * len(layout.lengths)
    if rows * heads * width >= 2**31:  # the backward pass counts elements in 32 bits
        return by_piece
    return _tried(device, dtype, (heads, key_BKTD.shape[1], width), 7 if layout.window else 0)


@lru_cache
def _takes(kernel: Callable[..., Tensor]) -> frozenset[str]:
    """Names of its arguments."""
    return frozenset(signature(kernel).parameters)


@lru_cache
def _tried(device: torch.device, dtype: torch.dtype, shape: tuple[int, int, int], window: int) -> Form:
    """The first form that passes a trial: the kernel with as many heads of keys as there are, with each repeated, by pieces."""
    heads, groups, _ = shape
    forms: list[Form] = [at_once] if heads == groups else [at_once, partial(at_once, repeats=heads // groups)]
    faults = []
    for form in forms:
        fault = trial(form, device, dtype, shape, window)
        if not fault:
            return form
        faults.append(fault)
    log.once(f"packed rows attend sequence by sequence, as torch's kernel for all of them at once {faults[-1]}; same loss")
    return by_piece


def trial(form: Form, device: torch.device, dtype: torch.dtype, shape: tuple[int, int, int], window: int) -> str:
    """How `form` differs from `by_piece` on random numbers, forward or backward; "" where it does not.

    shape: heads of queries, heads of keys, width.
    """
    heads, groups, width = shape
    layout, draw = _TRIED.within(window) if window else _TRIED, torch.Generator().manual_seed(0)
    sizes = ((heads, width), (groups, width), (groups, width), (heads, width))
    found = []
    with undisturbed():
        *numbers, gradient = (torch.randn((1, layout.tokens, *size), generator=draw).to(device, dtype) for size in sizes)
        for one in (form, by_piece):
            inputs = [number.detach().transpose(1, 2).requires_grad_() for number in numbers]
            try:
                output = one(*inputs, layout, width**-0.5)
                found.append([output.detach(), *torch.autograd.grad(output, inputs, gradient)])
            except (RuntimeError, ValueError, TypeError) as problem:
                return f"fails here ({str(problem).splitlines()[0].split('. ')[0]})"
        apart = max(float((ours - theirs).abs().max() / theirs.abs().max()) for ours, theirs in zip(*found, strict=True))
    return "" if apart < _NEAR else f"differs by {apart:.2g} in its trial"


def at_once(
    query_BHTD: Tensor, key_BKTD: Tensor, value_BKTD: Tensor, layout: Layout, scale: float, *, repeats: int = 1
) -> Tensor:
    """[B, T, H, D] by the kernel, in which the last query of a piece sees the last key of that piece.

    repeats: how often each head of keys and values is laid down; 1 leaves it to the kernel.
    """
    if any(layout.given):
        key_BKTD, value_BKTD = (torch.cat(keys_seen(one, layout), dim=2) for one in (key_BKTD, value_BKTD))
    query_THD, key_SKD, value_SKD = (one[0].transpose(0, 1) for one in (query_BHTD, key_BKTD, value_BKTD))
    if repeats > 1:
        key_SKD, value_SKD = (one.repeat_interleave(repeats, dim=1) for one in (key_SKD, value_SKD))
    ends_N, key_ends_N = _bounds(layout, query_BHTD.device)
    how = _options(layout.window, scale, grouped=query_THD.shape[1] != key_SKD.shape[1])
    read = (ends_N, key_ends_N, max(layout.lengths), layout.longest)
    return varlen_attn(query_THD, key_SKD, value_SKD, *read, **how).unsqueeze(0)


def _options(window: int, scale: float, *, grouped: bool) -> dict[str, object]:
    """What the installed torch's function is told by name."""
    takes = _takes(varlen_attn)
    if "window_size" not in takes:  # torch 2.10, whose scale is one over the root of the width
        return {"is_causal": True}
    told: dict[str, object] = {"scale": scale, "window_size": (window - 1 if window else -1, 0)}
    return {**told, "enable_gqa": True} if grouped and "enable_gqa" in takes else told  # torch 2.11 takes groups unasked


@lru_cache(maxsize=8)
def _bounds(layout: Layout, device: torch.device) -> tuple[Tensor, Tensor]:
    """int32 [N + 1]: where each piece's queries begin and end, and its keys; the same tensors in every layer of a forward."""
    seen = map(int.__add__, layout.lengths, layout.given)
    first, second = (torch.tensor([0, *accumulate(counts)], dtype=torch.int32) for counts in (layout.lengths, seen))
    return first.to(device), second.to(device)
