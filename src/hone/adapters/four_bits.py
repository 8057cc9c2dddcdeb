"""Weights that bitsandbytes holds in 4 bits, given to the kernel of few products, which turns them back for each of its passes.

Does not know what is done with the numbers. It asks bitsandbytes' operations for them, which are there where its layers are.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Taker(Protocol):
    """Has weights turned back when it thinks best."""

    def take(self, weights: FourBits, dtype: torch.dtype) -> Tensor: ...


class FourBits:
    """Of one Linear4bit, whose weights may move before they are asked for. taker: through whom they are asked for, if any."""

    def __init__(self, layer: nn.Module, taker: Taker | None = None):
        self._layer, self._taker = layer, taker

    @property
    def _state(self) -> Any:
        """The scales, which stand at the layer where its weight is in shares."""
        return getattr(self._layer.weight, "quant_state", None) or self._layer.quant_state

    def restores(self, dtype: torch.dtype) -> bool:
        """Whether the layer itself takes its products in `dtype`."""
        state = self._state
        return self._layer.compute_dtype == dtype and state is not None and len(state.shape) == 2

    def restored(self, dtype: torch.dtype) -> Tensor:
        """[O, D], once more each time: kept, it would take four times the memory that four bits save."""
        return self.turned_back(dtype) if self._taker is None else self._taker.take(self, dtype)

    def turned_back(self, dtype: torch.dtype) -> Tensor:
        """The same, now."""
        weight, state, operations = self._layer.weight, self._state, torch.ops.bitsandbytes
        scales = state.absmax
        if state.nested:
            inner = state.state2
            scales = operations.dequantize_blockwise(scales, inner.absmax, inner.code, inner.blocksize, torch.float32)
            scales = scales + state.offset
        bits = weight.data.view(-1, 1)
        return operations.dequantize_4bit(bits, scales, state.blocksize, state.quant_type, state.shape, dtype)
