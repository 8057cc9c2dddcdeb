"""The one door to MLX: a folder run by mlx-lm, on Apple's processors, and on others by MLX's build for them.

Does not know how the folder was made.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor


def lack_of_mlx() -> str:
    """Why a folder cannot be run by mlx-lm here; "" where it can."""
    if find_spec("mlx_lm") and find_spec("mlx"):
        return ""
    return "mlx-lm is not installed: pip install mlx-lm, on Linux with mlx[cpu]; then hone parity compares the two"


class MlxModel:
    """A model's folder in mlx-lm's hands."""

    def __init__(self, folder: Path):
        from mlx import core
        from mlx_lm.utils import load_model

        self._core = core
        self._model, _ = load_model(folder)
        self._model.set_dtype(core.float32)

    def logits(self, ids: list[int]) -> Tensor:
        """Of one text, [T, V], fp32."""
        found = self._model(self._core.array([ids]))[0].astype(self._core.float32)
        return torch.frombuffer(bytearray(memoryview(found).cast("B")), dtype=torch.float32).view(tuple(found.shape))
