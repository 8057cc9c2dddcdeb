"""Numbers of few bits: the scale of each group of a row, whole numbers on it, and how they lie in 32-bit words.

Does not know files or models.

Axes: O outputs (rows), I inputs, G groups of a row, W words.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """Whole numbers of `bits` around zero, with a scale for each `group` inputs of a row; 0: of the whole row."""

    bits: int
    group: int

    def width(self, inputs: int) -> int:
        """Inputs that share a scale."""
        return self.group or inputs

    def scales(self, weight_OI: Tensor, kept: torch.dtype) -> Tensor:
        """[O, G], fp32, as they will be read back from `kept`: the largest number of a group lies half a step beyond the last."""
        groups_OGI = weight_OI.unflatten(-1, (-1, self.width(weight_OI.shape[-1])))
        scales_OG = (groups_OGI.abs().amax(-1) / (2**self.bits - 1) * 2).to(kept).float()
        return torch.where(scales_OG > 0, scales_OG, 1.0)

    def steps(self, weight_OI: Tensor, scales_OG: Tensor) -> Tensor:
        """The nearest whole numbers, int8."""
        half = 2 ** (self.bits - 1)
        spread_OI = scales_OG.repeat_interleave(self.width(weight_OI.shape[-1]), -1)
        return (weight_OI / spread_OI).round().clamp(-half, half - 1).to(torch.int8)

    def values(self, steps_OI: Tensor, scales_OG: Tensor) -> Tensor:
        """What the numbers stand for, fp32."""
        return steps_OI * scales_OG.repeat_interleave(self.width(steps_OI.shape[-1]), -1)


def pack(numbers_OI: Tensor, bits: int) -> Tensor:
    """Whole numbers from 0 on, [O, I] -> [O, W] int32, the first in the lowest bits, I filled up with zeros. bits: 4 or 8."""
    per_word = 32 // bits
    short = -numbers_OI.shape[-1] % per_word
    numbers_OWn = torch.nn.functional.pad(numbers_OI.to(torch.int64), (0, short)).unflatten(-1, (-1, per_word))
    words_OW = (numbers_OWn << (torch.arange(per_word, device=numbers_OI.device) * bits)).sum(-1)
    return torch.where(words_OW >= 2**31, words_OW - 2**32, words_OW).to(torch.int32)
