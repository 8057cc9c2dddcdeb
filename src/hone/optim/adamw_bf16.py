"""AdamW (Loshchilov & Hutter 2019) whose two moments are held in bfloat16, rounded up or down at random so that no mean is lost.

Does not know schedules, parameter groups or who calls it.

A moment that follows a gradient by a thousandth is less than half a unit of bfloat16 from its old value, so rounding to the
nearest would leave it where it is for ever; a weight in bfloat16 too. Rounded at random they are right on average (Gupta et al.
2015). The random numbers follow from the step and the weight alone: the same on every process, and in a run that is continued.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from hone.optim.own import Own

CHUNK = 1 << 22
"""Numbers of a weight that are worked on at once, in fp32."""
SCRATCH = 26
"""Bytes that this takes for each of them, gradients in bfloat16; in fp32 four less."""

_LOW, _HIGH = 0xFFFF, -0x10000
_STRIDE = 1 << 24
"""More than there are weights, so that no two steps draw alike."""


class AdamWBf16(Own):
    """lr, betas, eps, weight_decay a group; state a weight: both moments in bfloat16. Weights of that type are rounded alike."""

    def __init__(self, params: Any, lr: float, betas: tuple[float, float], eps: float, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self._generators: dict[torch.device, torch.Generator] = {}

    def follow(self, weight: Tensor, group: dict[str, Any], number: int) -> None:
        """AdamW's step, in fp32, from the moments as they were before they are rounded."""
        state = self.state[weight]
        if not state:
            state["step"] = 0
            state["exp_avg"], state["exp_avg_sq"] = (torch.zeros_like(weight, dtype=torch.bfloat16) for _ in range(2))
        state["step"] += 1
        generator = self._generators.setdefault(weight.device, torch.Generator(weight.device))
        generator.manual_seed(state["step"] * _STRIDE + number)
        parts = (weight.data, weight.grad, state["exp_avg"], state["exp_avg_sq"])
        tensors = [part.to_local() if isinstance(part, DTensor) else part for part in parts]  # of a weight that is spread out
        whole = not all(tensor.is_contiguous() for tensor in tensors)
        pieces = [tensors] if whole else zip(*(tensor.view(-1).split(CHUNK) for tensor in tensors), strict=True)
        for piece in pieces:
            _step(*piece, group, state["step"], generator)


def _step(
    weight: Tensor, slope: Tensor, mean: Tensor, square: Tensor, group: dict[str, Any], step: int, generator: torch.Generator
) -> None:
    (beta1, beta2), rate = group["betas"], group["lr"]
    slope = slope.float()
    first = mean.float().lerp_(slope, 1 - beta1)
    second = square.float().lerp_(slope * slope, 1 - beta2)
    random = _drawn(mean, generator)
    mean.copy_(rounded(first, random & _LOW))
    square.copy_(rounded(second, random.bitwise_right_shift_(16).bitwise_and_(_LOW)))
    size = second.div_(1 - beta2**step).sqrt_().add_(group["eps"])
    update = first.div_(size).mul_(rate / (1 - beta1**step))
    if weight.dtype != torch.bfloat16:
        weight.mul_(1 - rate * group["weight_decay"]).sub_(update)
        return
    moved = weight.float().mul_(1 - rate * group["weight_decay"]).sub_(update)
    weight.copy_(rounded(moved, _drawn(mean, generator).bitwise_and_(_LOW)))


def _drawn(like: Tensor, generator: torch.Generator) -> Tensor:
    """int32: 32 random bits a number."""
    return torch.randint(-(1 << 31), 1 << 31, like.shape, dtype=torch.int32, device=like.device, generator=generator)


def rounded(numbers: Tensor, random: Tensor) -> Tensor:
    """bfloat16: each finite fp32 number up or down, the nearer the likelier, so that the mean is the number itself.

    random: int32, 16 random bits each. What bfloat16 has no room for are a number's last 16 bits: with random ones added, they
    carry into the first as often as they are a share of 2^16.
    """
    return numbers.view(torch.int32).add(random).bitwise_and_(_HIGH).view(torch.float32).to(torch.bfloat16)
