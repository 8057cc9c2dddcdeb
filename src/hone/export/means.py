"""Means over the rows of every weight: two models whose means agree have the same weights, also where no text would show it.

Does not know where the models come from. Logits see what a few texts use: not the row of a token that is not in them, nor an
expert that none of them is sent to.

Axes: R rows of a weight (all its axes but the last), D the last axis.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_ROUNDING = {"F64": (1e-4, 0.0), "F32": (1e-4, 0.0), "F16": (2**-10, 2**-24), "BF16": (2**-7, 0.0)}
"""Most that the mean of a row may differ: a share of the row's absolute mean, and a number where the format holds none smaller.

Twice what rounding one number can do in a format of few bits, and the order of sums in fp32 in the others. A row that is zero
where it should not be differs by 1."""
_BLOCK = 2**24


@torch.inference_mode()
def row_means(module: nn.Module) -> dict[str, Tensor]:
    """Of every weight, by every name it has: [R, 2], mean absolute value and mean with signs drawn once."""
    return {name: _means(weight) for name, weight in module.named_parameters(remove_duplicate=False)}


def _means(weight: Tensor) -> Tensor:
    rows_RD = weight.flatten(0, -2) if weight.dim() > 1 else weight.reshape(-1, 1)
    width = rows_RD.shape[-1]
    draw = torch.Generator().manual_seed(width)
    signs_D = (torch.randint(0, 2, (width,), generator=draw) * 2 - 1).to(weight.device, torch.float32)
    parts = []
    for block_RD in rows_RD.split(max(1, _BLOCK // width)):
        block_RD = block_RD.float()
        parts.append(torch.stack([block_RD.abs().mean(-1), block_RD @ signs_D / width], -1).cpu())
    return torch.cat(parts)


def differing(trained: dict[str, Tensor], exported: dict[str, Tensor], *, dtype: str) -> dict[str, int]:
    """How many rows differ by more than rounding, for each weight that has such. dtype: of the exported weights."""
    share, least = _ROUNDING[dtype]
    found = dict.fromkeys(trained.keys() ^ exported.keys(), 0)
    for name in trained.keys() & exported.keys():
        one_R2, other_R2 = trained[name], exported[name]
        if one_R2.shape != other_R2.shape:
            found[name] = len(other_R2)
            continue
        allowed_R = share * one_R2[:, 0] + least
        near_R = ((one_R2 - other_R2).abs() <= allowed_R[:, None]).all(-1)  # false for what is not a number
        if not near_R.all():
            found[name] = int((~near_R).sum())
    return dict(sorted(found.items()))
