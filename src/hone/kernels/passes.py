"""The two passes of a fused operation, and the one door to their forms in Triton.

Does not know any operation; each has a file of its own, with a reference, passes in plain torch, and passes in gpu/.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch

from hone.table import Table

_TRITON = Table(
    "kernel",
    {
        f"{operation}.{name}": f"hone.kernels.gpu.{operation}:{name}"
        for operation in ("rms_norm", "rope", "gated")
        for name in ("forward", "backward")
    }
    | {"float8.rounded": "hone.kernels.gpu.float8:rounded"},
)
"""Imported when first asked for, and triton with it."""

TYPES = (torch.float32, torch.bfloat16, torch.float16)
"""Of tensors that the Triton forms read."""


@dataclass(frozen=True)
class Passes:
    """forward: the result, and what the backward needs beside the inputs; backward: the gradients. Each op says of what."""

    forward: Callable[..., Any]
    backward: Callable[..., Any]


def in_triton(operation: str) -> Passes:
    """The passes of `operation` in Triton; ImportError where it is not installed."""
    return Passes(_TRITON.load(f"{operation}.forward"), _TRITON.load(f"{operation}.backward"))


def rounding_in_triton() -> Callable[..., Any]:
    """`kernels.float8.rounded` in Triton; ImportError where it is not installed."""
    return _TRITON.load("float8.rounded")


def has_triton() -> bool:
    """Whether Triton is installed."""
    return find_spec("triton") is not None
