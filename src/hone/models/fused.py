"""Fused operations in a model that is to be trained: by default where they were measured to pay, else where they are asked for.

Does not know how an operation is computed, nor where in a model it stands.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from hone import log
from hone.errors import ModelError
from hone.kernels.attach import OPERATIONS, attach
from hone.kernels.passes import has_triton

Fusing = bool | Literal["auto"]
"""The setting fused_kernels."""


def fuse(module: nn.Module, asked: Fusing, device: torch.device) -> None:
    """Replace what a self-check proves to be the same; says what was replaced.

    On a CPU in plain torch (bench/fused_ops.py shows what it saves); on a GPU in Triton, where it is asked for: those kernels
    are proven in its interpreter and have not run on a device yet. Raises ModelError where Triton is asked for and not there.
    """
    on_gpu = device.type == "cuda"
    if asked is False or (asked == "auto" and device.type != "cpu"):
        return
    if on_gpu and not has_triton():
        raise ModelError("fused_kernels: true needs the package triton on a GPU; install it, or write fused_kernels: false")
    attached = attach(module, OPERATIONS, triton=on_gpu)
    log.once(f"{attached}" + (", in Triton, which is new: compare the loss with fused_kernels: false" if on_gpu else ""))
