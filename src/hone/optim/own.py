"""What optimizers of this house have in common: one weight at a time, and states that come back from a file as they were.

Does not know any rule of a step.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from torch import Tensor


class Own(torch.optim.Optimizer):
    """An optimizer that says in `follow` what a step does to one weight."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step; closure computes the loss again, as torch allows."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        number = 0
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self.follow(weight, group, number)
                number += 1
        return loss

    def follow(self, weight: Tensor, group: dict[str, Any], number: int) -> None:
        """Move a weight after its gradient. number: of the weight, counted through all groups."""
        raise NotImplementedError

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, which casts states to the type of their weight: bf16 ones would grow, and fp32 ones lose their digits."""
        super().load_state_dict(state_dict)
        weights = chain.from_iterable(group["params"] for group in self.param_groups)
        saved = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        for weight, number in zip(weights, saved, strict=True):
            for name, value in state_dict["state"].get(number, {}).items():
                if isinstance(value, Tensor):
                    self.state[weight][name] = value.to(weight.device, copy=True)
