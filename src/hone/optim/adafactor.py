"""Adafactor (Shazeer & Stern 2018) with a rate from outside: second moments kept as a row and a column of each matrix.

Does not know schedules, parameter groups or who calls it. The same steps as transformers.optimization.Adafactor with
scale_parameter and relative_step off, which is how `optim: adafactor` has always been meant.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hone.optim.own import Own

_FLOOR, _CLIP, _POWER = 1e-30, 1.0, -0.8


class Adafactor(Own):
    """lr and weight_decay a group; state a weight: one number a row and one a column, or a whole copy for vectors."""

    def __init__(self, params: Any, lr: float, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    def follow(self, weight: Tensor, group: dict[str, Any], number: int) -> None:
        """Shazeer & Stern's algorithm 4, with the rate given."""
        rate, decay = group["lr"], group["weight_decay"]
        gradient, state = weight.grad.float(), self.state[weight]
        if not state:
            state["step"] = 0
            state.update(_zeros(gradient))
        state["step"] += 1
        keep = 1.0 - state["step"] ** _POWER
        square = gradient.square() + _FLOOR
        if gradient.dim() >= 2:
            row, column = state["exp_avg_sq_row"], state["exp_avg_sq_col"]
            row.lerp_(square.mean(dim=-1), 1 - keep)
            column.lerp_(square.mean(dim=-2), 1 - keep)
            update = (row / row.mean(dim=-1, keepdim=True)).rsqrt().unsqueeze(-1) * column.rsqrt().unsqueeze(-2) * gradient
        else:
            update = state["exp_avg_sq"].lerp_(square, 1 - keep).rsqrt() * gradient
        update /= (_root_mean_square(update) / _CLIP).clamp(min=1.0)
        new = weight.float() * (1 - rate * decay) - rate * update
        weight.copy_(new)


def _zeros(gradient: Tensor) -> dict[str, Tensor]:
    if gradient.dim() < 2:
        return {"exp_avg_sq": torch.zeros_like(gradient)}
    column = gradient.shape[:-2] + gradient.shape[-1:]
    return {"exp_avg_sq_row": gradient.new_zeros(gradient.shape[:-1]), "exp_avg_sq_col": gradient.new_zeros(column)}


def _root_mean_square(tensor: Tensor) -> Tensor:
    return tensor.norm(2) / tensor.numel() ** 0.5
