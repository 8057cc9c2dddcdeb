"""Shuttle: a layer's input goes to host memory in the forward pass and is back before the backward pass asks for it.

Does not know what a layer is. On a CPU it copies within memory, which saves nothing and serves tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks


@dataclass
class _Parcel:
    """host: where it lies; here: on the device again, once it was sent for; back: after which it may be read there."""

    host: Tensor
    device: torch.device
    here: Tensor | None = None
    back: torch.cuda.Event | None = None


class Shuttle:
    """`layer.recompute = Shuttle(device).around(checkpoint)`: checkpoint's first tensor waits in host memory.

    Copies run on a stream of their own beside the computation. When a parcel is asked for, the one that was sent just before
    it, which is the next to be asked for, is sent for too.
    """

    def __init__(self, device: torch.device):
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._pins = device.type != "cpu"  # on "meta", where a plan is made, the host's memory is told apart by it
        self._away: list[_Parcel] = []

    def around(self, checkpoint: Callable[..., Any]) -> Callable[..., Any]:
        """`checkpoint`, with the first tensor that it is given held in host memory until it is asked for."""

        def run(function: Callable[..., Any], hidden: Tensor, *rest: Any, **settings: Any) -> Any:
            place = hidden.untyped_storage()._cdata
            pack = partial(self._pack, place)
            with saved_tensors_hooks(pack, self._unpack):  # within the layer, checkpoint's own hooks come before these
                return checkpoint(function, hidden, *rest, **settings)

        return run

    def _pack(self, place: int, tensor: Tensor) -> Tensor | _Parcel:
        if tensor.untyped_storage()._cdata != place:
            return tensor
        parcel = _Parcel(torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=self._pins), tensor.device)
        if self._stream is None:
            parcel.host.copy_(tensor)
        else:
            self._stream.wait_stream(torch.cuda.current_stream(tensor.device))
            with torch.cuda.stream(self._stream):
                parcel.host.copy_(tensor, non_blocking=True)
            tensor.record_stream(self._stream)  # or its memory would be given to others while it is being copied
        self._away.append(parcel)
        return parcel

    def _unpack(self, packed: Tensor | _Parcel) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        self._send_for(packed)
        number = next((index for index, one in enumerate(self._away) if one is packed), None)
        if number is not None:
            if number:
                self._send_for(self._away[number - 1])
            del self._away[number:]  # those after it were asked for before, or belong to a pass that was given up
        if packed.back is not None:
            torch.cuda.current_stream(packed.device).wait_event(packed.back)
        here, packed.here = packed.here, None
        assert here is not None, "a parcel that was sent for is here"
        return here

    def _send_for(self, parcel: _Parcel) -> None:
        if parcel.here is not None:
            return
        if self._stream is None:
            parcel.here = parcel.host.to(parcel.device, copy=True)
            return
        with torch.cuda.stream(self._stream):
            parcel.here = parcel.host.to(parcel.device, non_blocking=True)
            parcel.back = self._stream.record_event()
        parcel.here.record_stream(torch.cuda.current_stream(parcel.device))
