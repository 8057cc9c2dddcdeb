"""Ahead: the weights that the next layer will need are turned back from 4 bits on a stream beside the computation of this one.

Does not know layers' order: it remembers who came after whom, forward and backward. Not yet run on a device, and on only where
fused_kernels: true asks for it: a stand-in for CUDA proves the order on a CPU, and on a device a trial comes first.

Turning back waits for memory and a product for arithmetic, so that side by side they take little more than the product alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hone import log
from hone.adapters.four_bits import FourBits

_NEAR = 0.05
"""Of the largest number: two 16-bit products whose sums are taken in another order."""


class Ahead:
    """cuda: torch.cuda, or what stands in for it. One weight is turned back ahead; a guess that was wrong is thrown away."""

    def __init__(self, device: torch.device, cuda: Any = torch.cuda):
        self._device, self._cuda = device, cuda
        self._stream = cuda.Stream(device)
        self._after: dict[tuple[FourBits | None, FourBits], FourBits] = {}
        self._before: tuple[FourBits | None, FourBits | None] = (None, None)
        self._coming: tuple[FourBits, torch.dtype, Tensor, Any] | None = None

    def take(self, weights: FourBits, dtype: torch.dtype) -> Tensor:
        """The numbers of `weights` for what is computed from now on; those that came next the last time are begun."""
        computing, coming = self._cuda.current_stream(self._device), self._coming
        if coming is not None and coming[:2] == (weights, dtype):
            _, _, numbers, ready = coming
            computing.wait_event(ready)
            numbers.record_stream(computing)  # or its memory would be given to the next while it is being read
        else:
            numbers = weights.turned_back(dtype)
        self._coming, following = None, self._remember(weights)
        if following is not None:
            with self._cuda.stream(self._stream):
                self._coming = following, dtype, following.turned_back(dtype), self._stream.record_event()
        return numbers

    def _remember(self, weights: FourBits) -> FourBits | None:
        """Who came after these two, the one before and this one: so the way forward and the way back are told apart."""
        first, second = self._before
        if second is not None:
            self._after[first, second] = weights
        self._before = (second, weights)
        return self._after.get(self._before)


def turn_back_ahead(module: nn.Module, cuda: Any = torch.cuda) -> None:
    """Let every layer in 4 bits on a GPU be turned back ahead; says so, or what the trial found."""
    layers = [one for one in module.modules() if type(one).__name__ == "Linear4bit" and one.weight.device.type == "cuda"]
    if not layers:
        return
    ahead = Ahead(layers[0].weight.device, cuda)
    fault = trial(layers[0], ahead)
    if fault:
        log.once(f"weights in 4 bits are turned back by bitsandbytes in its turn, as doing so ahead {fault}; same result")
        return
    for layer in layers:
        layer.four_bits = FourBits(layer, ahead)
    log.once(f"{len(layers)} layers in 4 bits are turned back beside the computation, which is new: compare the loss without")


def trial(layer: nn.Module, ahead: Ahead) -> str:
    """How a product of weights that were turned back ahead differs from the layer's own; "" where it does not."""
    weights, dtype = FourBits(layer), layer.compute_dtype
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(16, layer.in_features, generator=draw).to(layer.weight.device, dtype)
    try:
        with torch.no_grad():
            wanted = layer(x)
            found = [nn.functional.linear(x, ahead.take(weights, dtype), layer.bias) for _ in range(4)]
    except (RuntimeError, ValueError, TypeError) as problem:
        return f"fails here ({str(problem).splitlines()[0][:80]})"
    apart = max(float((one - wanted).abs().max() / wanted.abs().max()) for one in found)
    return "" if apart < _NEAR else f"differs by {apart:.2g} in its trial"
