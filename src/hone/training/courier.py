"""Courier: batches are copied to a CUDA device on a stream of their own, beside the computation of the steps before.

Does not know what is in a batch. Not yet run on a device: a stand-in for CUDA proves the order on a CPU, and on a device a trial
comes first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from hone import log
from hone.data.batch import Batch


@dataclass(frozen=True)
class Sent:
    """batch: on the device, once `arrived` has come to pass there."""

    batch: Batch
    arrived: Any


class Courier:
    """`send` in any thread, then `receive` in the one that computes. cuda: torch.cuda, or what stands in for it."""

    def __init__(self, device: torch.device, cuda: Any = torch.cuda):
        self._device, self._cuda = device, cuda
        self._stream = cuda.Stream(device)

    def send(self, batch: Batch) -> Sent:
        """Begin to copy; nobody waits."""
        with self._cuda.stream(self._stream):
            there = batch.pinned().to(self._device)
            return Sent(there, self._stream.record_event())

    def receive(self, sent: Sent) -> Batch:
        """The batch, for what is computed from now on: that waits on the device, and only if the copy is still under way."""
        computing = self._cuda.current_stream(self._device)
        computing.wait_event(sent.arrived)
        for tensor in sent.batch.tensors():
            tensor.record_stream(computing)  # or its memory would be given to the next copy while it is being read
        return sent.batch


def courier_for(device: torch.device, cuda: Any = torch.cuda) -> Courier | None:
    """A courier where there is a stream beside the computation and the trial passes; None elsewhere."""
    if device.type != "cuda":
        return None
    courier = Courier(device, cuda)
    rows = torch.arange(4096).reshape(1, -1)
    batch = Batch(rows, rows + 1, rows + 2, rows.int())
    found = courier.receive(courier.send(batch))
    if all(torch.equal(one.cpu(), other) for one, other in zip(found.tensors(), batch.tensors(), strict=True)):
        return courier
    log.once("batches are copied in the steps that they belong to, as a copy beside the computation came out wrong in its trial")
    return None
