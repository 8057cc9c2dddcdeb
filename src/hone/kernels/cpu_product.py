"""A large product in fp32 on a CPU by the library that is faster there: oneDNN where MKL's is not tuned for it, else torch's own.

Does not know what is multiplied; both add up in fp32, in another order.

Axes: T token, D summed over, O output.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import _get_current_dispatch_mode

FEWEST_ROWS, SMALLEST = 64, 2**24
"""Rows and multiplications below which torch's own product is taken: oneDNN prepares each new shape for some milliseconds."""


def product(left_TD: Tensor, right_OD: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """[T, O]: left times right transposed, plus bias; right may be a turned view. No gradient is recorded in fp32 on a CPU."""
    rows = left_TD.shape[0]
    large = rows >= FEWEST_ROWS and rows * right_OD.numel() >= SMALLEST
    if large and left_TD.dtype == torch.float32 and left_TD.device.type == "cpu" and not watched() and prefers_onednn():
        return torch.ops.mkldnn._linear_pointwise(left_TD, right_OD, bias_O, "none", [], "")
    return functional.linear(left_TD, right_OD, bias_O)


def watched() -> bool:
    """Whether something looks at each operation: a compiler, or a checkpoint that keeps products by their names."""
    return torch.compiler.is_compiling() or _get_current_dispatch_mode() is not None


@cache
def prefers_onednn() -> bool:
    """By rule, so that a run that is continued adds up in the same order: AMD with AVX512, where it was measured.

    EPYC 9004, one thread, T 1,379, D and O 192 to 1,536: 1.06 to 1.17 times MKL's speed, forward and backward.
    """
    if not torch.backends.mkldnn.is_available() or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    described = Path("/proc/cpuinfo")
    return described.is_file() and "AuthenticAMD" in described.read_text(encoding="utf-8", errors="replace")[:1000]
