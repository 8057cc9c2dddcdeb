"""Optimizers of bitsandbytes: states in 8 bits, or paged out to host memory. The one place of this room that imports it.

Does not know parameter groups or schedules.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch

from hone.config.optimizer import OptimizerConfig
from hone.errors import MissingExtra


def require_bitsandbytes(optimizer: OptimizerConfig) -> None:
    """MissingExtra where the package is not installed."""
    if find_spec("bitsandbytes") is None:
        raise MissingExtra("bitsandbytes", "quant", f"optim: {optimizer.kind}")


def build_bnb(groups: list[dict[str, Any]], optimizer: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW or Lion by the name in `kind`; MissingExtra without bitsandbytes."""
    require_bitsandbytes(optimizer)
    from bitsandbytes.optim import AdamW, Lion

    kwargs: dict[str, Any] = {"lr": optimizer.learning_rate, "betas": (optimizer.adam_beta1, optimizer.adam_beta2)}
    kwargs |= {"optim_bits": 8 if "8bit" in optimizer.kind else 32, "is_paged": optimizer.kind.startswith("paged")}
    if "lion" in optimizer.kind:
        return Lion(groups, **kwargs)
    return AdamW(groups, eps=optimizer.adam_epsilon, **kwargs)
