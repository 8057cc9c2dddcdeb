"""What a weight becomes in each form: its tensors, and the block of config.json that says so.

Does not know which weights, nor how their whole numbers were found; knows the layouts of compressed-tensors and MLX.

Axes: O outputs (rows), I inputs, G groups of a row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hone.config.export import ExportConfig
from hone.export.quantized.grid import Grid, pack
from hone.export.quantized.nf4 import nf4_parts, nf4_settings
from hone.kernels.float8 import LARGEST, TYPE

Parts = dict[str, Tensor]
"""The tensors that stand for one weight, by what is added to its module's name."""


@dataclass(frozen=True)
class Form:
    """word: of the number format, as in parity's limits. package: what loads it again.

    parts: of a weight [O, I] in fp32 and the number format of what is not in few bits. settings: of config.json, by the modules
    that are left as they are. grid: None where numbers lie on none of ours; group: inputs of which a row must be made, 1 for any.
    embeddings: whether these and the output head are in few bits too.
    """

    word: str
    package: str
    parts: Callable[[Tensor, torch.dtype], Parts]
    settings: Callable[[list[str]], dict[str, Any]]
    grid: Grid | None = None
    group: int = 1
    embeddings: bool = False


def form_of(settings: ExportConfig) -> Form:
    """Of export_quantization_method, _bit and _group."""
    bits, method, group = (
        settings.export_quantization_bit,
        settings.export_quantization_method,
        settings.export_quantization_group,
    )
    assert bits is not None, "asked for where nothing is to be quantized"
    if method == "fp8":
        return Form("float8", "compressed_tensors", _float8_parts, _float8_settings)
    if method == "bnb":
        return Form("nf4", "bitsandbytes", nf4_parts, nf4_settings)
    if method == "mlx":
        grid = Grid(bits, group or 64)
        told = partial(_mlx_parts, grid), lambda kept: _mlx_settings(grid)
        return Form(f"mlx{bits}", "mlx_lm", *told, group=grid.group, embeddings=True)
    grid = Grid(bits, group or (128 if bits == 4 else 0))
    told = partial(_nearest_parts, grid), partial(_packed_settings, grid)
    return Form(f"int{bits}", "compressed_tensors", *told, grid=grid, group=grid.group or 1)


def _nearest_parts(grid: Grid, weight_OI: Tensor, kept: torch.dtype) -> Parts:
    scales_OG = grid.scales(weight_OI, kept)
    return packed_parts(grid, grid.steps(weight_OI, scales_OG), scales_OG, kept)


def packed_parts(grid: Grid, steps_OI: Tensor, scales_OG: Tensor, kept: torch.dtype) -> Parts:
    """Of compressed-tensors' format pack-quantized: whole numbers counted from the lowest, in words of 32 bits."""
    return {
        "weight_packed": pack(steps_OI.to(torch.int64) + 2 ** (grid.bits - 1), grid.bits),
        "weight_scale": scales_OG.to(kept),
        "weight_shape": torch.tensor(steps_OI.shape),
    }


def _packed_settings(grid: Grid, kept: list[str]) -> dict[str, Any]:
    strategy = {"strategy": "group", "group_size": grid.group} if grid.group else {"strategy": "channel", "group_size": None}
    weights = {"num_bits": grid.bits, "type": "int", "symmetric": True, "dynamic": False, **strategy}
    return _compressed("pack-quantized", weights, None, kept)


def _float8_parts(weight_OI: Tensor, kept: torch.dtype) -> Parts:
    scales_O1 = weight_OI.abs().amax(-1, keepdim=True) / LARGEST
    scales_O1 = torch.where(scales_O1 > 0, scales_O1, 1.0).to(kept)
    near_OI = (weight_OI / scales_O1.float()).clamp(-LARGEST, LARGEST)
    return {"weight": near_OI.to(TYPE), "weight_scale": scales_O1}


def _float8_settings(kept: list[str]) -> dict[str, Any]:
    """Inputs are rounded too, a scale for each token, while the model runs."""
    eight = {"num_bits": 8, "type": "float", "symmetric": True}
    inputs = {**eight, "strategy": "token", "dynamic": True}
    return _compressed("float-quantized", {**eight, "strategy": "channel", "dynamic": False}, inputs, kept)


def _compressed(kind: str, weights: dict[str, Any], inputs: dict[str, Any] | None, kept: list[str]) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs, "output_activations": None, "format": kind}
    said = {"quant_method": "compressed-tensors", "format": kind, "quantization_status": "compressed", "ignore": kept}
    return {"quantization_config": {**said, "config_groups": {"group_0": group}}}


def _mlx_parts(grid: Grid, weight_OI: Tensor, kept: torch.dtype) -> Parts:
    """A number is scale * step + bias; the end of a group that is farther from zero is kept exactly, and zero nearly."""
    groups_OGI = weight_OI.unflatten(-1, (-1, grid.group))
    low_OG, high_OG = groups_OGI.amin(-1), groups_OGI.amax(-1)
    below_OG = low_OG.abs() > high_OG.abs()
    top = 2**grid.bits - 1
    scales_OG = ((high_OG - low_OG) / top).clamp_min(1e-7) * torch.where(below_OG, 1.0, -1.0)
    edge_OG = torch.where(below_OG, low_OG, high_OG)
    steps_OG = (edge_OG / scales_OG).round()
    scales_OG = torch.where(steps_OG != 0, edge_OG / steps_OG, scales_OG).to(kept)
    biases_OG = torch.where(steps_OG != 0, edge_OG, 0.0).to(kept)
    wide_OGI = (groups_OGI - biases_OG.float().unsqueeze(-1)) / scales_OG.float().unsqueeze(-1)
    numbers_OI = wide_OGI.round().clamp(0, top).flatten(-2)
    return {"weight": pack(numbers_OI, grid.bits).view(torch.uint32), "scales": scales_OG, "biases": biases_OG}


def _mlx_settings(grid: Grid) -> dict[str, Any]:
    said = {"group_size": grid.group, "bits": grid.bits, "mode": "affine"}
    return {"quantization": said, "quantization_config": said}  # the hub reads the second, mlx-lm the first


def few_bits(config: dict[str, Any]) -> str:
    """The word of the form that a config.json tells of; "" where its weights are whole, or in a form of others."""
    told = config.get("quantization_config") or {}
    if told.get("quant_method") == "bitsandbytes" and told.get("load_in_4bit"):
        return "nf4"
    if told.get("quant_method") == "compressed-tensors":
        weights = [group["weights"] for group in told["config_groups"].values()]
        return next(("float" if one["type"] == "float" else "int") + str(one["num_bits"]) for one in weights)
    return f"mlx{config['quantization']['bits']}" if "quantization" in config else ""
