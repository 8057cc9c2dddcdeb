"""Attention of packed rows by pieces against the reference, and the reference's mask by hand."""

from __future__ import annotations

import pytest
import torch

from hone.kernels import causal_fp32, packed_attention
from hone.kernels.packed_attention import Layout, by_piece, end_to_end, reference

PLAIN = end_to_end([5, 1, 17, 3])
SHARED = Layout(lengths=(9, 4, 1, 6, 3), given=(0, 5, 5, 0, 2), givers=(0, 0, 0, 0, 3))
LAYOUTS = {
    "plain": PLAIN,
    "window": PLAIN.within(4),
    "blocks": PLAIN.cut(6),
    "shared": SHARED,
    "shared and a window": SHARED.within(3),
}
HEADS = {"all heads": (4, 4, 8, 8), "groups": (4, 2, 8, 8), "one group, odd": (3, 1, 7, 7), "other values": (4, 2, 8, 5)}


def drawn(layout: Layout, heads: int, groups: int, width: int, value_width: int, dtype: torch.dtype = torch.float32):
    """Queries, keys and values as a layer gives them, [1, heads, T, width] of [1, T, heads, width], and the output's gradient."""
    draw = torch.Generator().manual_seed(0)
    sizes = (heads, width), (groups, width), (groups, value_width), (heads, value_width)
    *inputs, gradient = (torch.randn(1, layout.tokens, *size, generator=draw).to(dtype) for size in sizes)
    return [one.transpose(1, 2).requires_grad_() for one in inputs], gradient


def apart(form, other, layout: Layout, inputs, gradient) -> float:
    """The largest difference of the outputs and of the inputs' gradients."""
    found = []
    for one in (form, other):
        output = one(*inputs, layout, 0.3)
        found.append([output, *torch.autograd.grad(output, inputs, gradient)])
    return max((ours.float() - theirs.float()).abs().max().item() for ours, theirs in zip(*found, strict=True))


def test_what_a_token_sees():
    layout = Layout(lengths=(4, 2, 1), given=(0, 2, 0), givers=(0, 0, 2))
    wanted = [
        "1000000",
        "1100000",
        "1110000",
        "1111000",
        "1100100",
        "1100110",
        "0000001",
    ]
    rows = [[one == "1" for one in row] for row in wanted]
    assert layout.sees(torch.device("cpu")).tolist() == rows
    windowed = layout.within(2).sees(torch.device("cpu"))
    assert windowed.int().tolist() == [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [0, 1, 1, 0, 0, 0, 0],
        [0, 0, 1, 1, 0, 0, 0],
        [0, 1, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 1, 1, 0],
        [0, 0, 0, 0, 0, 0, 1],
    ]


def test_a_window_or_a_block_as_long_as_the_longest_sequence_is_none():
    assert SHARED.longest == 9 and SHARED.within(9) == SHARED and SHARED.cut(9) is SHARED
    assert SHARED.within(8).window == 8
    assert PLAIN.cut(6).lengths == (5, 1, 6, 6, 5, 3)


@pytest.mark.parametrize("block", [512, 3])
@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_pieces_attend_as_in_the_reference(layout, heads, block, monkeypatch):
    monkeypatch.setattr(packed_attention, "BLOCK", block)
    inputs, gradient = drawn(LAYOUTS[layout], *HEADS[heads])
    assert apart(by_piece, reference, LAYOUTS[layout], inputs, gradient) < 1e-5  # sums in fp32 in another order


@pytest.mark.parametrize("layout", ["plain", "window", "shared"])
def test_in_16_bits_too(layout):
    inputs, gradient = drawn(LAYOUTS[layout], *HEADS["groups"], torch.bfloat16)
    whole = [one.detach().float().requires_grad_() for one in inputs]
    exact = reference(*whole, LAYOUTS[layout], 0.3)
    wanted = [exact, *torch.autograd.grad(exact, whole, gradient.float())]
    for form in (by_piece, reference):
        output = form(*inputs, LAYOUTS[layout], 0.3)
        found = [output, *torch.autograd.grad(output, inputs, gradient)]
        far = max((ours.float() - theirs).abs().max().item() for ours, theirs in zip(found, wanted, strict=True))
        assert far < 0.06, form  # bf16 has 8 bits: 2^-8 of numbers of up to 5, a few times over


def test_nothing_of_the_rows_length_squared_is_formed():
    """The largest tensor that is saved for the backward pass is an input's or an output's."""
    layout, sizes = end_to_end([64] * 8), []
    inputs, gradient = drawn(layout, 2, 2, 8, 8)
    with torch.autograd.graph.saved_tensors_hooks(lambda one: sizes.append(one.numel()) or one, lambda one: one):
        by_piece(*inputs, layout, 0.3).backward(gradient)
    assert max(sizes) <= gradient.numel() < 512 * 512


def test_a_band_is_formed_once_for_all_layers():
    layout, kept = end_to_end([40, 40]).within(8), []
    inputs, _ = drawn(layout, *HEADS["groups"])
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one) or one, lambda one: one):
        for _ in range(2):
            by_piece(*inputs, layout, 0.3)
    bands = [one.data_ptr() for one in kept if one.shape[-2:] == (40, 40)]
    assert len(bands) == 4 and len(set(bands)) == 1


def test_dropout_drops():
    inputs, _ = drawn(PLAIN, *HEADS["groups"])
    torch.manual_seed(0)
    assert not torch.equal(by_piece(*inputs, PLAIN, 0.3, 0.5), by_piece(*inputs, PLAIN, 0.3))


@pytest.mark.parametrize("heads", ["all heads", "groups", "one group, odd"])
def test_short_pieces_in_bf16_are_nearer_to_the_exact_ones_in_fp32(heads, monkeypatch):
    """Held against fp32 of the same numbers: outputs are rounded once, gradients err less than those of torch's bf16 kernel."""
    inputs, gradient = drawn(PLAIN, *HEADS[heads], torch.bfloat16)
    exact = [one.detach().float().requires_grad_() for one in inputs]
    output = by_piece(*exact, PLAIN, 0.3)
    wanted = [output, *torch.autograd.grad(output, exact, gradient.float())]
    errors = []
    for widens in (False, True):
        monkeypatch.setattr(packed_attention, "prefers_onednn", lambda widens=widens: widens)
        found = by_piece(*inputs, PLAIN, 0.3)
        assert (found.grad_fn is not None) and found.dtype == torch.bfloat16
        both = zip([found, *torch.autograd.grad(found, inputs, gradient)], wanted, strict=True)
        errors.append([(ours.float() - theirs).abs().mean().item() for ours, theirs in both])
    plain, widened = errors
    assert widened[0] <= 2**-9 * wanted[0].abs().mean().item()
    assert all(ours <= theirs for ours, theirs in zip(widened, plain, strict=True)) and sum(widened) < 0.9 * sum(plain)


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("lengths", [(1,), (95, 1, 300), (144, 145, 193)])
def test_attention_out_of_products_is_the_reference(heads, lengths):
    """1e-5 of the largest: fp32 sums over up to 300 keys and powers of two in place of e's."""
    layout = end_to_end(list(lengths))
    inputs, gradient = drawn(layout, *HEADS[heads])
    found = []
    for form in (reference, lambda *given: causal_fp32.attend(*given[:3], given[3].lengths, given[4])):
        output = form(*inputs, layout, 0.3)
        found.append([output, *torch.autograd.grad(output, inputs, gradient)])
    for theirs, ours in zip(*found, strict=True):
        assert ours.shape == theirs.shape and (ours - theirs).abs().max() <= 1e-5 * max(1.0, theirs.abs().max().item())


def test_only_rows_of_short_plain_sequences_in_bf16_are_widened(monkeypatch):
    monkeypatch.setattr(packed_attention, "prefers_onednn", lambda: True)
    monkeypatch.setattr(packed_attention, "SHORT", 17)
    real, seen = causal_fp32.attend, []
    monkeypatch.setattr(causal_fp32, "attend", lambda *given: seen.append(given[3]) or real(*given))
    for dtype, layout, dropout in (
        (torch.bfloat16, PLAIN, 0.0),
        (torch.float32, PLAIN, 0.0),
        (torch.bfloat16, PLAIN, 0.1),
        (torch.bfloat16, PLAIN.within(4), 0.0),
        (torch.bfloat16, end_to_end([18, 3]), 0.0),
    ):
        inputs, _ = drawn(layout, 4, 2, 8, 8, dtype)
        by_piece(*inputs, layout, 0.3, dropout)
    assert seen == [PLAIN.lengths], "of bf16 without dropout or window, none longer than 17"


def test_what_looks_at_each_operation_sees_attention_by_its_name(monkeypatch):
    """A checkpoint that keeps attention's result, or a rehearsal that counts its seconds, would not know it out of products."""
    monkeypatch.setattr(packed_attention, "prefers_onednn", lambda: True)
    monkeypatch.setattr(causal_fp32, "attend", lambda *given: pytest.fail("out of products"))
    names = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            names.append(func.__name__)
            return func(*args, **(kwargs or {}))

    inputs, _ = drawn(PLAIN, 4, 2, 8, 8, torch.bfloat16)
    with Watch():
        by_piece(*inputs, PLAIN, 0.3)
    assert sum(name.startswith("_scaled_dot_product_") for name in names) == len(PLAIN.lengths)
