"""AWQ: before rounding, inputs that are large get wider weights, and what feeds them is made smaller by as much.

Does not know families: what feeds a weight is seen while it runs, and a pair is kept only where the layer still gives what it
gave. Lin et al. 2023 (arXiv 2306.00978), without the search for clipping. Errors are reckoned from the inputs' products.

Axes: O outputs (rows), I inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from hone.export.quantized.grid import Grid
from hone.export.quantized.walk import Reached

_POWERS = tuple(number / 20 for number in range(20))
_NEAR = 1e-3
"""Most that a layer's output may change by scaling, of its largest number; fp32 alone makes 1e-6, a wrong pair about 1."""


@torch.no_grad()
def smooth(reached: Reached, grid: Grid, kept: torch.dtype, names: set[str]) -> list[str]:
    """Scale the weights of a layer in place; the pairs that were scaled. names: of the weights that will be rounded."""
    scaled, wanted = [], reached.run()
    for source, takers in _pairs(reached, names):
        modules = [reached.layer.get_submodule(taker) for taker in takers]
        scale_I = best_scale([module.weight for module in modules], reached.grams[takers[0]], grid, kept)
        undo = _shrink(reached.layer.get_submodule(source), scale_I)
        if undo is None:
            continue
        before = [module.weight.clone() for module in modules]
        for module in modules:
            module.weight.mul_(scale_I)
        if (reached.run() - wanted).abs().max() <= _NEAR * wanted.abs().max():
            scaled.append(f"{source} -> {', '.join(takers)}")
            continue
        undo()
        for module, weight in zip(modules, before, strict=True):
            module.weight.copy_(weight)
    return scaled


def _pairs(reached: Reached, names: set[str]) -> list[tuple[str, list[str]]]:
    """What feeds which weights: a norm those that read its output, and a layer the one behind it in the same block."""
    found: dict[str, list[str]] = {}
    for taker in reached.grams:
        if source := reached.sources.get(taker):
            found.setdefault(source, []).append(taker)
        parent, _, last = taker.rpartition(".")
        before = {"down_proj": "up_proj", "o_proj": "v_proj"}.get(last)
        if before and f"{parent}.{before}" in reached.grams:
            found[f"{parent}.{before}"] = [taker]
    return [(source, takers) for source, takers in found.items() if names.issuperset(takers)]


def best_scale(weights: Sequence[Tensor], gram_II: Tensor, grid: Grid, kept: torch.dtype) -> Tensor:
    """[I]: the power of the inputs' size under which rounding changes the outputs least; ones where nothing helps."""
    size_I = gram_II.diagonal().sqrt().clamp_min(1e-8)
    best, least = torch.ones_like(size_I), float("inf")
    for power in _POWERS:
        scale_I = size_I**power
        scale_I = (scale_I / (scale_I.max() * scale_I.min()).sqrt()).clamp(1e-4, 1e4)
        error = sum(_error(weight_OI, scale_I, gram_II, grid, kept) for weight_OI in weights)
        if error < least:
            best, least = scale_I, error
    return best


def _error(weight_OI: Tensor, scale_I: Tensor, gram_II: Tensor, grid: Grid, kept: torch.dtype) -> float:
    """Squared change of the outputs, summed over the calibration's tokens."""
    wide_OI = weight_OI * scale_I
    scales_OG = grid.scales(wide_OI, kept)
    change_OI = grid.values(grid.steps(wide_OI, scales_OG), scales_OG) / scale_I - weight_OI
    return ((change_OI @ gram_II) * change_OI).sum().item()


def _shrink(source: nn.Module, scale_I: Tensor) -> Callable[[], None] | None:
    """Divide what `source` gives by `scale_I`; how to take it back, None where its weights cannot do that."""
    kept = {name: one.clone() for name, one in source.named_parameters(recurse=False)}

    def undo() -> None:
        for name, one in source.named_parameters(recurse=False):
            one.copy_(kept[name])

    if len(source.weight) != len(scale_I):
        return None
    if getattr(source, "bias", None) is not None:
        source.bias.div_(scale_I)
    if source.weight.dim() == 2:
        source.weight.div_(scale_I.unsqueeze(-1))
        return undo
    probe_1I = torch.linspace(-1, 1, len(scale_I), device=scale_I.device).unsqueeze(0)
    wanted_1I = _given(source, kept, probe_1I) / scale_I
    for offset in (0.0, 1.0):  # some norms multiply by 1 + weight
        source.weight.copy_((kept["weight"] + offset) / scale_I - offset)
        if (source(probe_1I) - wanted_1I).abs().max() <= _NEAR * wanted_1I.abs().max():
            return undo
    undo()
    return None


def _given(source: nn.Module, kept: dict[str, Tensor], probe_1I: Tensor) -> Tensor:
    """What `source` gave with the weights it had."""
    return torch.func.functional_call(source, kept, probe_1I)
