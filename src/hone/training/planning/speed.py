"""Speed: what a device does in a second, seen in a few tenths of a second of products, attention, copies and small modules.

Does not know what it will be asked to do.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from hone.kernels.packed_attention import by_piece, end_to_end
from hone.models.prepared import bound_prepared
from hone.training.planning.rehearsal import Speed

_TRIES = 9
_SMALL, _MODULES, _OPERATIONS = 8, 12, 6
"""Modules one after the other, of so many numbers, each of which is about so many operations, forward and backward."""


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
    shapes = ((sizes.rows, sizes.width), (sizes.width, sizes.width), (sizes.width, sizes.thin))
    rows_RW, square_WW, thin_WN = (_ones(*shape, like=like) for shape in shapes)
    product = _seconds(lambda: torch.mm(rows_RW, square_WW), device)
    thin = _seconds(lambda: torch.mm(rows_RW, thin_WN), device)
    first_N, second_N = _ones(sizes.numbers, like=like), _ones(sizes.numbers, like=like)  # more than a cache holds
    plain = _seconds(lambda: torch.mul(first_N, second_N), device)
    involved = _seconds(lambda: functional.silu(first_N), device)
    size = first_N.numel() * first_N.element_size()
    return Speed(
        flops=2 * rows_RW.numel() * sizes.width / product,
        thin=2 * rows_RW.numel() * sizes.thin / thin,
        attention=_attention(sizes, device, dtype),
        bytes=3 * size / plain,
        involved=2 * size / involved,
        least_seconds=_least(device, dtype),
    )


def _attention(sizes: _Sizes, device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of causal attention, as they are counted: of all pairs of tokens, 2 products forward and 5 backward."""
    made = [_ones(1, sizes.heads, sizes.tokens, sizes.head, like=(device, dtype)).requires_grad_() for _ in range(3)]

    def work() -> None:
        by_piece(*made, end_to_end([sizes.tokens]), sizes.head**-0.5).sum().backward()

    return 14 * sizes.heads * sizes.tokens**2 * sizes.head / _seconds(work, device)


def _least(device: torch.device, dtype: torch.dtype) -> float:
    """Seconds of an operation that has nothing to do, as modules ask for it."""
    stack = nn.Sequential(*(nn.Linear(_SMALL, _SMALL) for _ in range(_MODULES))).to(device, dtype)
    given = _ones(1, _SMALL, like=(device, dtype))
    return _seconds(lambda: stack(given).sum().backward(), device) / (_MODULES * _OPERATIONS)


def _ones(*shape: int, like: tuple[torch.device, torch.dtype]) -> Tensor:
    return torch.ones(*shape, device=like[0], dtype=like[1])


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    found = []
    for _ in range(_TRIES + 1):  # the first is slower
        _wait(device)
        start = _now(device)
        work()
        _wait(device)
        found.append(_now(device) - start)
    return min(found)


def _now(device: torch.device) -> float:
    """Seconds; of a CPU those that it works for this process, a thread: others use it too, and not in the same way all along."""
    return time.process_time() / torch.get_num_threads() if device.type == "cpu" else time.perf_counter()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
