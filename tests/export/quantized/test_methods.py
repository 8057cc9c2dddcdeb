"""GPTQ and AWQ: by hand, against rounding to the nearest, and without harm to the layer."""

from __future__ import annotations

import pytest
import torch

from hone.errors import ExportError
from hone.export.quantized.awq import best_scale, smooth
from hone.export.quantized.gptq import gptq
from hone.export.quantized.grid import Grid
from hone.export.quantized.walk import Reached, _watched
from tests.families import tiny

DRAW = torch.Generator().manual_seed(0)


def inputs(count: int, width: int) -> torch.Tensor:
    """Some of which are large, and which depend on each other."""
    free = torch.randn(count, width, generator=DRAW)
    return (free + 0.7 * free.roll(1, -1)) * torch.logspace(-1, 1, width)


def change(weight: torch.Tensor, rounded: torch.Tensor, read: torch.Tensor) -> float:
    """Of the outputs."""
    return ((rounded - weight) @ read.T).square().sum().item()


def test_inputs_that_have_nothing_to_do_with_each_other_are_rounded_to_the_nearest() -> None:
    weight, grid = torch.randn(6, 64, generator=DRAW), Grid(4, 16)
    steps, scales = gptq(weight, torch.eye(64), grid, torch.float32)
    assert torch.equal(scales, grid.scales(weight, torch.float32)) and torch.equal(steps, grid.steps(weight, scales))


def test_what_the_first_column_loses_the_second_makes_up_for() -> None:
    """By hand: scale 1, weights 7.5 and 2.3, of which the first becomes 7 and loses 0.5. Where both inputs are nearly the same
    the second takes it over: 2.8 rounds to 3, not 2."""
    weight, grid = torch.tensor([[7.5, 2.3]]), Grid(4, 0)
    alike = torch.tensor([[1.0, 0.99], [0.99, 1.0]])
    assert gptq(weight, alike, grid, torch.float32)[0].tolist() == [[7, 3]]
    assert gptq(weight, torch.eye(2), grid, torch.float32)[0].tolist() == [[7, 2]]


@pytest.mark.parametrize("grid", [Grid(4, 32), Grid(4, 0), Grid(8, 0)], ids=str)
def test_outputs_are_nearer_than_by_rounding(grid: Grid) -> None:
    weight, read = torch.randn(32, 192, generator=DRAW), inputs(512, 192)
    scales = grid.scales(weight, torch.float32)
    nearest = change(weight, grid.values(grid.steps(weight, scales), scales), read)
    steps, scales = gptq(weight, read.T @ read, grid, torch.float32)
    assert change(weight, grid.values(steps, scales), read) < 0.7 * nearest


def test_an_input_that_never_comes_costs_nothing() -> None:
    weight, read, grid = torch.randn(4, 32, generator=DRAW), inputs(64, 32), Grid(4, 32)
    read[:, 5] = 0
    steps, _ = gptq(weight, read.T @ read, grid, torch.float32)
    assert (steps[:, 5] == 0).all()


def test_numbers_that_are_none_are_told() -> None:
    with pytest.raises(ExportError, match="not finite"):
        gptq(torch.ones(2, 4), torch.full((4, 4), float("nan")), Grid(4, 0), torch.float32)


def test_a_scale_is_never_worse_than_none() -> None:
    weight, read, grid = torch.randn(32, 64, generator=DRAW), inputs(256, 64), Grid(4, 32)
    gram = read.T @ read

    def error(scale: torch.Tensor) -> float:
        wide = weight * scale
        scales = grid.scales(wide, torch.float32)
        return change(weight, grid.values(grid.steps(wide, scales), scales) / scale, read)

    assert error(best_scale([weight], gram, grid, torch.float32)) < 0.9 * error(torch.ones(64))


@pytest.mark.parametrize(("family", "least"), [("llama", 3), ("gemma2", 3), ("phi3", 2), ("qwen3", 3)])
def test_a_layer_that_was_scaled_gives_what_it_gave(family: str, least: int) -> None:
    """1e-4 of the outputs: fp32. Gemma's norms multiply by 1 + weight; phi3 has gate and up in one weight."""
    module = tiny(family).eval().requires_grad_(False)
    layer, ids = module.model.layers[0], torch.arange(3, 20).unsqueeze(0)
    seen: dict[str, torch.Tensor] = {}

    def run() -> torch.Tensor:
        hook = layer.register_forward_hook(lambda *given: seen.update(out=given[2]))
        with torch.no_grad():
            module(ids)
        hook.remove()
        return seen["out"]

    reached = Reached("model.layers.0", layer, run)
    with _watched(reached):
        run()
    names = {f"{path}" for path in reached.grams}
    before, weights = run(), {name: weight.clone() for name, weight in layer.named_parameters()}
    scaled = smooth(reached, Grid(4, 8), torch.float32, names)
    assert len(scaled) >= least and any(not torch.equal(weights[name], one) for name, one in layer.named_parameters())
    assert (run() - before).abs().max() < 1e-4 * before.abs().max()
