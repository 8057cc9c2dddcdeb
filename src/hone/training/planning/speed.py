"""Speed: what a device does in a second, seen in a few tenths of a second of products, attention, copies and small modules.

Does not know what it will be asked to do.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hone.kernels import lora_linear, rms_norm
from hone.models.checkpointing import ATTENTION
from hone.models.prepared import bound_prepared
from hone.training.planning.rehearsal import NO_WORK, Speed

_TRIES = 9
choose: Callable[[list[float]], float] = min
"""Which of the tries is taken: what the device can do. bench/plan_time.py also takes the median, as disturbed as its steps."""
_SMALL, _LAYERS = 8, 6
"""Layers one after the other, of so many numbers."""
_PRODUCT, _IN_A_ROW = 32, 10
"""The side of products whose least part are their numbers, and how many are taken together."""


@dataclass(frozen=True)
class _Sizes:
    """Of what is tried: a few milliseconds each, so that the best of some is one that nothing came between."""

    rows: int
    width: int
    thin: int
    heads: int
    tokens: int
    head: int
    numbers: int


_TRIED = {"cpu": _Sizes(256, 512, 8, 4, 192, 64, 2**21), "cuda": _Sizes(8192, 8192, 16, 32, 4096, 128, 2**27)}


@cache
def speed_of(device: torch.device, dtype: torch.dtype) -> Speed:
    """The best of a few tries: what the device can do, not what it happened to be doing."""
    bound_prepared(device)  # the plan's product is the first of the process, and oneDNN reads its capacities then
    sizes = _TRIED.get(device.type, _TRIED["cpu"])
    like = (device, dtype)
    rows_RW, square_WW = _ones(sizes.rows, sizes.width, like=like), _ones(sizes.width, sizes.width, like=like)
    first_N, second_N = _ones(sizes.numbers, like=like), _ones(sizes.numbers, like=like)  # more than a cache holds
    small_PP = _ones(_PRODUCT, _PRODUCT, like=like)
    least = _seconds(lambda: [torch.mm(small_PP, small_PP) for _ in range(_IN_A_ROW)], first_N) / _IN_A_ROW
    product = _without(_seconds(lambda: torch.mm(rows_RW, square_WW), first_N), least)
    plain = _seconds(lambda: torch.mul(first_N, second_N), first_N)
    involved = _seconds(lambda: functional.silu(first_N), first_N)
    size = first_N.numel() * first_N.element_size()
    return Speed(
        flops=2 * rows_RW.numel() * sizes.width / product,
        thin=_thin(rows_RW, sizes.thin, least, first_N),
        attention=_attention(sizes, first_N),
        bytes=3 * size / plain,
        involved=2 * size / involved,
        least_seconds=_least(least, first_N),
        least_product=least,
    )


def _thin(rows_TD: Tensor, num: int, least: float, others_N: Tensor) -> float:
    """Operations a second of an adapter's products, in the forms in which it takes them, forward and backward."""
    down_ND, low_NT, up_DN = (
        rows_TD.new_ones(shape) for shape in ((num, rows_TD.shape[1]), (num, len(rows_TD)), (rows_TD.shape[1], num))
    )

    def work() -> None:
        torch.mm(down_ND, rows_TD.T)
        torch.mm(up_DN.T, rows_TD.T)
        torch.mm(low_NT, rows_TD)
        torch.addmm(rows_TD, low_NT.T, up_DN.T)
        torch.addmm(rows_TD, low_NT.T, down_ND)

    return 5 * 2 * rows_TD.numel() * num / _without(_seconds(work, others_N), 5 * least)


def _attention(sizes: _Sizes, others_N: Tensor) -> float:
    """Operations a second of causal attention, as they are counted: of all pairs of tokens, 2 products forward and 5 backward.

    Of torch's own, which alone is counted so: short rows in bf16 may be computed in products (kernels/packed_attention).
    What is done to queries, keys and values around it is told apart, as it is in a rehearsal.
    """
    made = [others_N.new_ones(1, sizes.heads, sizes.tokens, sizes.head).requires_grad_() for _ in range(3)]
    found = []
    for _ in range(_TRIES + 1):
        others_N.add_(1)
        with _Asked(others_N.device) as asked:
            functional.scaled_dot_product_attention(*made, is_causal=True).sum().backward()
        found.append(asked.attention_seconds)
    return 14 * sizes.heads * sizes.tokens**2 * sizes.head / choose(found)


def _least(product: float, others_N: Tensor) -> float:
    """Seconds of an operation that has nothing to do, as layers with an adapter ask for it: in Python, under autocast.

    product: seconds of a product, which is told apart.
    """
    device, dtype = others_N.device, others_N.dtype
    given = others_N.new_ones(1, _SMALL).requires_grad_()
    frozen_WW, scale_W = others_N.new_ones(_SMALL, _SMALL), others_N.new_ones(_SMALL)
    down_WW, up_WW = (torch.ones(_SMALL, _SMALL, device=device, requires_grad=True) for _ in range(2))

    def work() -> None:
        x = given
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            for _ in range(_LAYERS):
                x = lora_linear.linear(rms_norm.fused(x, scale_W, rms_norm.Norm(1e-6)), frozen_WW, None, down_WW, up_WW, 1.0)
        x.sum().backward()

    with _Asked(device) as asked:
        work()
    return _without(_seconds(work, others_N), asked.products * product) / asked.number


def _without(whole: float, part: float) -> float:
    """The rest of it; no less than a third, as both are times of a machine that others use."""
    return max(whole - part, whole / 3)


class _Asked(TorchDispatchMode):
    """Counts the operations that write something, as a rehearsal does, and products among them; and the seconds of attention."""

    def __init__(self, device: torch.device):
        super().__init__()
        self._device, self.number, self.products, self.attention_seconds = device, 0, 0, 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__
        if name.startswith(ATTENTION):
            _wait(self._device)
        start = _now(self._device)
        out = func(*args, **(kwargs or {}))
        if name.startswith(ATTENTION):
            _wait(self._device)
            self.attention_seconds += _now(self._device) - start
        given, made = (
            {one.untyped_storage()._cdata for one in tree_leaves(many) if isinstance(one, Tensor)}
            for many in ((args, kwargs), out)
        )
        self.products += "mm" in name
        self.number += func not in NO_WORK and (bool(made - given) or name.partition(".")[0].endswith("_"))
        return out


def _ones(*shape: int, like: tuple[torch.device, torch.dtype]) -> Tensor:
    return torch.ones(*shape, device=like[0], dtype=like[1])


def _seconds(work: Callable[[], object], others_N: Tensor) -> float:
    """Of the best of a few tries. Between them `others_N` goes through the cache, as in a step all else does."""
    found, device = [], others_N.device
    for _ in range(_TRIES + 1):  # the first is slower
        others_N.add_(1)
        _wait(device)
        start = _now(device)
        work()
        _wait(device)
        found.append(_now(device) - start)
    return choose(found)


def _now(device: torch.device) -> float:
    """Seconds; of a CPU those that it works for this process, a thread: others use it too, and not in the same way all along."""
    return time.process_time() / torch.get_num_threads() if device.type == "cpu" else time.perf_counter()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
