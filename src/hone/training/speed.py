"""Speed: what a device does in a second, seen in a few milliseconds of products and copies.

Does not know what it will be asked to do.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import torch

from hone.models.prepared import bound_prepared
from hone.training.rehearsal import Speed

_TRIES = 3
_SIZES = {"cuda": (8192, 2**28), "cpu": (512, 2**25)}
"""Edge of the products' matrices, and bytes of the copies."""
_LEAST_SECONDS = {"cuda": 5e-6, "cpu": 1e-5}
"""Of one operation as Python asks for it, however small. Of the order seen; where it matters, the model is tiny."""


@cache
def speed_of(device: torch.device, dtype: torch.dtype) -> Speed:
    """The best of a few tries: what the device can do, not what it happened to be doing."""
    bound_prepared(device)  # the plan's product is the first of the process, and oneDNN reads its capacities then
    edge, size = _SIZES.get(device.type, _SIZES["cpu"])
    left, right = (torch.ones(edge, edge, dtype=dtype, device=device) for _ in range(2))
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    product = _seconds(lambda: torch.mm(left, right), device)
    copy = _seconds(lambda: target.copy_(source), device)
    return Speed(2 * edge**3 / product, 2 * size / copy, _LEAST_SECONDS.get(device.type, 1e-5))


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    found = []
    for _ in range(_TRIES + 1):  # the first is slower
        _wait(device)
        start = time.perf_counter()
        work()
        _wait(device)
        found.append(time.perf_counter() - start)
    return min(found)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
