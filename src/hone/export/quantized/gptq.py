"""GPTQ: rounds a weight column by column, each time moving what was lost onto the columns that are still to come.

Does not know models. Frantar et al. 2022 (arXiv 2210.17323), algorithm 1: the product of the rounded weight with its inputs is
held near, where rounding to the nearest holds the numbers themselves near.

Axes: O outputs (rows), I inputs, G groups of a row, C columns of a block.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hone.errors import ExportError
from hone.export.quantized.grid import Grid

_BLOCK = 128
_DAMPING = (0.01, 0.1, 1.0)
"""Share of the mean of the diagonal that is added to it; the next one where the matrix cannot be inverted."""


def gptq(weight_OI: Tensor, gram_II: Tensor, grid: Grid, kept: torch.dtype) -> tuple[Tensor, Tensor]:
    """The whole numbers [O, I] and scales [O, G] of a weight. gram: sum of x x^T over its inputs x, fp32.

    Raises: ExportError where the inputs' numbers are not finite.
    """
    weight_OI, numb_I = weight_OI.clone(), gram_II.diagonal() == 0
    weight_OI[:, numb_I] = 0  # nothing is known of what never came
    factor_II = _inverse_factor(gram_II, numb_I)
    inputs = weight_OI.shape[1]
    scales = [] if grid.group else [grid.scales(weight_OI, kept)]
    steps_OI = torch.empty_like(weight_OI, dtype=torch.int8)
    for start in range(0, inputs, grid.group or _BLOCK):
        end = min(start + (grid.group or _BLOCK), inputs)
        block_OC = weight_OI[:, start:end]
        if grid.group:
            scales.append(grid.scales(block_OC, kept))
        lost_OC = torch.empty_like(block_OC)
        for at in range(start, end):
            here = at - start
            column_O1 = block_OC[:, here : here + 1]
            steps_OI[:, at : at + 1] = Grid(grid.bits, 0).steps(column_O1, scales[-1])
            rounded_O1 = steps_OI[:, at : at + 1] * scales[-1]
            lost_OC[:, here : here + 1] = (column_O1 - rounded_O1) / factor_II[at, at]
            block_OC[:, here:] -= lost_OC[:, here : here + 1] * factor_II[at, at:end]
        weight_OI[:, end:] -= lost_OC @ factor_II[start:end, end:]
    return steps_OI, torch.cat(scales, -1)


def _inverse_factor(gram_II: Tensor, numb_I: Tensor) -> Tensor:
    """The upper Cholesky factor of the inverse of the damped matrix."""
    if not torch.isfinite(gram_II).all():
        raise ExportError("GPTQ: the calibration texts give numbers that are not finite; does the model itself run?")
    for share in _DAMPING:
        damped_II = gram_II.clone()
        damped_II.diagonal().add_(share * gram_II.diagonal().mean() + numb_I)
        lower_II, failed = torch.linalg.cholesky_ex(damped_II)
        if not failed:
            upper_II, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower_II), upper=True)
            if not failed:
                return upper_II
    raise ExportError("GPTQ: the inputs of a layer cannot be inverted; name more rows in export_quantization_dataset")
