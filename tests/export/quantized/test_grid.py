"""Whole numbers of few bits: how near they are, and how they lie in words, by hand and by compressed-tensors itself."""

from __future__ import annotations

import pytest
import torch

from hone.export.quantized.grid import Grid, pack

GRIDS = [Grid(4, 16), Grid(4, 0), Grid(8, 0), Grid(8, 32)]


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_no_number_is_off_by_more_than_half_a_step(grid: Grid) -> None:
    """1e-6: fp32. A row of zeros stays one."""
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    weight[3] = 0
    scales = grid.scales(weight, torch.float32)
    got = grid.values(grid.steps(weight, scales), scales)
    allowed = scales.repeat_interleave(grid.width(64), -1) / 2
    assert ((got - weight).abs() <= allowed + 1e-6).all() and (got[3] == 0).all()


def test_scales_are_those_that_will_be_read_back() -> None:
    """A scale that is rounded after the numbers were found would shift every one of them."""
    scales = Grid(4, 16).scales(torch.randn(8, 64), torch.bfloat16)
    assert torch.equal(scales, scales.bfloat16().float())


def test_numbers_lie_in_words_the_first_in_the_lowest_bits() -> None:
    assert pack(torch.arange(8).unsqueeze(0), 4).tolist() == [[0x76543210]]
    assert pack(torch.tensor([[1, 2, 3, 255, 7]]), 8).tolist() == [[0xFF030201 - 2**32, 7]]


@pytest.mark.parametrize("bits", [4, 8])
def test_words_are_those_of_compressed_tensors(bits: int) -> None:
    pytest.importorskip("compressed_tensors", reason="needs the extra compressed")
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    half = 2 ** (bits - 1)
    numbers = torch.randint(-half, half, (5, 72), generator=torch.Generator().manual_seed(0))
    assert torch.equal(pack(numbers + half, bits), pack_to_int32(numbers.to(torch.int8), bits))
