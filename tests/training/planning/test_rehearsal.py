"""What is counted while a model goes through tensors without memory, what is computed as it is, and how fast this device is."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from hone.training.planning import rehearsal
from hone.training.planning.depth import find_alike
from hone.training.planning.rehearsal import PARTS, Speed, Watch, _operations
from hone.training.planning.speed import speed_of

SPEED = Speed(1e9, 1e9, 1e9, 1e9, 1e9, 0.0)


def watched() -> tuple[Watch, FakeTensorMode]:
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    return Watch(fake, 1, 999, SPEED), fake


def held(watch: Watch) -> int:
    """Bytes at the highest of the present segment."""
    return int(watch.segments[-1].peak[:, PARTS.index("activations")].sum())


def test_a_mask_of_places_that_are_known_is_counted():
    """Places are there before; the mask, a byte a pair, and one in fp32 are made."""
    places_T = torch.arange(40)
    watch, _ = watched()
    with watch:
        seen_TT = places_T[:, None] >= places_T[None]
        mask_TT = torch.where(seen_TT, 0.0, float("-inf"))
    assert not seen_TT[0, 1] and mask_TT.shape == (40, 40)
    assert 40 * 40 * 5 <= held(watch) <= 40 * 40 * 5 + 8  # where makes tensors of its two numbers


def test_what_is_large_is_counted_and_never_made(monkeypatch):
    monkeypatch.setattr(rehearsal, "LARGE", 1000)
    places_T = torch.arange(40)
    watch, _ = watched()
    with watch:
        seen_TT = places_T[:, None] >= places_T[None]
    assert isinstance(seen_TT, FakeTensor) and held(watch) == 40 * 40


def test_whole_numbers_that_come_from_nowhere_can_be_looked_at():
    """As towers order their patches; widths of what follows go by them."""
    watch, fake = watched()
    with fake:
        wide_TD = torch.empty(6, 5)
    with watch:
        order_T = torch.cat([torch.arange(4)[2:], torch.tensor([0, 1])])
        assert order_T.tolist() == [2, 3, 0, 1]
        assert wide_TD[order_T].shape == (4, 5)


def test_numbers_that_are_not_there_are_not_written_into_those_that_are():
    watch, fake = watched()
    with fake:
        ones_N = torch.ones(3, dtype=torch.int64)
    with watch, pytest.raises(RuntimeError, match="not there"):
        torch.zeros(3, dtype=torch.int64).add_(ones_N)


@pytest.mark.parametrize(("dtype", "copied"), [(torch.bfloat16, 7 * 3 * 5 * 2), (torch.float32, 0)])
def test_one_matrix_for_many_is_written_out_in_16_bits(dtype, copied):
    """What torch's allocator gives within bmm on a CPU, seen with its profiler: 36 MiB in the tower of a Gemma 3."""
    watch, fake = watched()
    with fake:
        many, one = torch.empty(7, 2, 3, dtype=dtype), torch.empty(3, 5, dtype=dtype)
    watch.ignore(many)
    watch.ignore(one)
    with watch:
        torch.bmm(many, one.expand(7, 3, 5))
    assert held(watch) == 7 * 2 * 5 * dtype.itemsize + copied


def test_a_product_that_is_added_in_place_takes_as_long_as_another():
    rows, low, up = torch.ones(6, 5), torch.ones(6, 2), torch.ones(2, 5)
    found = [
        _operations(func, (rows, low, up), {}, rows) for func in (torch.ops.aten.addmm.default, torch.ops.aten.addmm_.default)
    ]
    assert found == [2 * 6 * 2 * 5] * 2


def layers(*learns: bool) -> nn.ModuleList:
    return nn.ModuleList(nn.Linear(2, 2).requires_grad_(one) for one in learns)


def test_the_layer_below_the_first_that_learns_is_like_no_other():
    """What it gives is kept for that one's gradient; the others below keep nothing."""
    config = SimpleNamespace()
    found = find_alike(layers(False, False, False, True, True, True), config, learns_before=False)
    assert found.chosen == (0, 2, 3, 4, 5) and found.like == (0, 0, 1, 2, 3, 4)
    found = find_alike(layers(False, False, False, True), config, learns_before=True)
    assert found.like == (0, 0, 0, 1), "all have a gradient to hand down"


def test_what_is_gone_is_no_longer_counted():
    watch, _ = watched()
    with watch:
        for _ in range(3):
            (torch.arange(5) + 1).sum()
    assert not watch._total and held(watch) <= 3 * 5 * 8


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_speed_is_found_where_short_rows_attend_in_products(dtype, monkeypatch):
    """As on an AMD CPU in bf16, where attention in a row of 192 tokens has no operation of its own that could be timed."""
    monkeypatch.setattr("hone.kernels.packed_attention.prefers_onednn", lambda: True)
    found = speed_of.__wrapped__(torch.device("cpu"), dtype)
    assert all(0 < number < 1e15 for number in vars(found).values()), found
