"""How many programs a kernel is launched with, and on which device.

Does not know any kernel.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from hone.kernels.selfcheck import is_rehearsed

_A_PROCESSOR = 8
"""Programs a streaming multiprocessor, where a program takes several rows."""


def num_programs(rows: int, device: torch.device) -> int:
    """Programs that share the rows: what fills the device, or a row each; at least one. 4 in the interpreter."""
    filled = torch.cuda.get_device_properties(device).multi_processor_count * _A_PROCESSOR if device.type == "cuda" else 4
    return max(1, min(rows, filled))


def launches(tensor: Tensor) -> bool:
    """Whether there is something to compute: it has elements and memory, which the tensors of a plan's rehearsal have not."""
    return tensor.numel() > 0 and not is_rehearsed(tensor)


def on_device_of(tensor: Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current device, which need not be the tensor's."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
