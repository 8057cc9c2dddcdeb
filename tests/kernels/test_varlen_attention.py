"""The calls of torch's kernel for varied lengths, against a stand-in with the signatures of three versions of torch."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from hone.kernels import varlen_attention
from hone.kernels.packed_attention import Layout, by_piece, end_to_end, reference
from hone.kernels.varlen_attention import at_once, form_for, supports, trial
from tests.kernels.test_packed_attention import HEADS, LAYOUTS, apart, drawn

CPU = torch.device("cpu")


def kernel(query, key, value, ends, key_ends, window, scale, *, upper_left: bool = False):
    """What the flash kernel computes of [T, H, D], piece by piece: the last query sees the last key."""
    assert ends.dtype == key_ends.dtype == torch.int32 and query.stride(-1) == 1
    rows = []
    for number in range(len(ends) - 1):
        part, seen = slice(ends[number], ends[number + 1]), slice(key_ends[number], key_ends[number + 1])
        queries, keys = torch.arange(part.stop - part.start)[:, None], torch.arange(seen.stop - seen.start)
        if not upper_left:
            queries = queries + len(keys) - len(queries)
        mask = keys <= queries
        if window >= 0:
            mask &= keys >= queries - window
        one = (query[part], key[seen], value[seen])
        output = torch.nn.functional.scaled_dot_product_attention(
            *(x.transpose(0, 1) for x in one), attn_mask=mask, scale=scale, enable_gqa=True
        )
        rows.append(output.transpose(0, 1))
    return torch.cat(rows)


def torch_2_10(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False, return_aux=None):
    assert is_causal and max_q == cu_seq_q.diff().max() and max_k == cu_seq_k.diff().max()
    return kernel(query, key, value, cu_seq_q, cu_seq_k, -1, None)


def torch_2_11(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, return_aux=None, scale=None, window_size=(-1, -1)):
    assert window_size[1] == 0 and max_q == cu_seq_q.diff().max() and max_k == cu_seq_k.diff().max()
    return kernel(query, key, value, cu_seq_q, cu_seq_k, window_size[0], scale)


def torch_2_13(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, return_aux=None, scale=None, window_size=(-1, -1), enable_gqa=False
):  # fmt: skip
    assert enable_gqa == (query.shape[1] != key.shape[1]), "Try setting enable_gqa=True for GQA."
    return torch_2_11(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, scale=scale, window_size=window_size)


@pytest.fixture
def install(monkeypatch):
    """Puts a stand-in in the kernel's place, on a CPU that passes for a device that has it."""

    def put(stand_in):
        monkeypatch.setattr(varlen_attention, "varlen_attn", stand_in)
        monkeypatch.setattr(varlen_attention, "supports", lambda device, dtype, shape: shape[0] == shape[1])
        varlen_attention._tried.cache_clear()

    yield put
    varlen_attention._tried.cache_clear()


@pytest.mark.parametrize("repeats", [1, 2])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("version", [torch_2_11, torch_2_13])
def test_one_call_attends_as_the_reference(version, layout, repeats, install):
    install(version)
    inputs, gradient = drawn(LAYOUTS[layout], *HEADS["groups"])
    form = lambda *given: at_once(*given, repeats=repeats)  # noqa: E731
    assert apart(form, reference, LAYOUTS[layout], inputs, gradient) < 1e-5


def test_torch_2_10_has_neither_window_nor_scale(install):
    install(torch_2_10)
    inputs, _ = drawn(LAYOUTS["shared"], *HEADS["groups"])
    usual = 8**-0.5
    form = form_for(*inputs, LAYOUTS["shared"], usual)
    assert form is at_once
    assert torch.allclose(form(*inputs, LAYOUTS["shared"], usual), reference(*inputs, LAYOUTS["shared"], usual), atol=1e-5)
    assert form_for(*inputs, LAYOUTS["shared"], 0.3) is by_piece
    assert form_for(*inputs, LAYOUTS["window"], usual) is by_piece


@pytest.mark.parametrize("window", [0, 7])
def test_the_kernel_serves_after_its_trial(window, install, capsys):
    install(torch_2_13)
    layout = end_to_end([9, 4]).within(window) if window else end_to_end([9, 4])
    inputs, _ = drawn(layout, *HEADS["groups"])
    assert form_for(*inputs, layout, 0.3) is at_once
    assert not capsys.readouterr().err


def test_a_trial_within_a_layer_that_is_computed_again_disturbs_nothing(install):
    """A checkpoint counts what is kept within it: what a trial keeps must not be among it, as it is tried once."""
    install(torch_2_13)
    layout = LAYOUTS["plain"]
    (query, key, value), gradient = drawn(layout, *HEADS["groups"])

    def layer(query: torch.Tensor) -> torch.Tensor:
        return form_for(query, key, value, layout, 0.3)(query, key, value, layout, 0.3)

    checkpoint(layer, query, use_reentrant=False).backward(gradient)
    assert varlen_attention._tried.cache_info().misses == 1
    (again,) = torch.autograd.grad(reference(query, key, value, layout, 0.3), query, gradient)
    torch.testing.assert_close(query.grad, again, rtol=1e-4, atol=1e-5)


def test_a_trial_within_a_rehearsal_has_numbers(install):
    """A plan rehearses in tensors without memory, and what it finds would serve the training that follows."""
    install(torch_2_13)
    layout = LAYOUTS["plain"]
    with FakeTensorMode() as fake:
        inputs = [fake.from_tensor(one.detach()) for one in drawn(layout, *HEADS["groups"])[0]]
        assert form_for(*inputs, layout, 0.3) is at_once


def test_a_kernel_that_takes_no_groups_gets_every_head(install):
    def strict(query, key, *more, scale=None, window_size=(-1, -1)):
        if query.shape[1] != key.shape[1]:
            raise RuntimeError("heads of query and key must match")
        return torch_2_11(query, key, *more, scale=scale, window_size=window_size)

    install(strict)
    inputs, gradient = drawn(LAYOUTS["shared"], *HEADS["groups"])
    form = form_for(*inputs, LAYOUTS["shared"], 0.3)
    assert form.keywords == {"repeats": 2}
    assert apart(form, reference, LAYOUTS["shared"], inputs, gradient) < 1e-5


def test_a_kernel_that_does_something_else_never_serves(install, capsys):
    def other(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1)):
        return kernel(query, key, value, cu_seq_q, cu_seq_k, -1, scale, upper_left=True)

    install(other)
    inputs, _ = drawn(LAYOUTS["plain"], *HEADS["all heads"])
    assert form_for(*inputs, LAYOUTS["plain"], 0.3) is by_piece
    assert "differs by" in capsys.readouterr().err


def test_a_kernel_without_a_backward_pass_never_serves(install, capsys):
    class Forward(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *given):
            return torch_2_11(*given, window_size=(-1, 0))

        @staticmethod
        def backward(ctx, gradient):
            raise RuntimeError("no backward with a window\nmore")

    install(lambda *given, scale=None, window_size=None: Forward.apply(*given))
    assert trial(at_once, CPU, torch.float32, (4, 4, 8), 0) == "fails here (no backward with a window)"
    inputs, _ = drawn(LAYOUTS["plain"], *HEADS["all heads"])
    assert form_for(*inputs, LAYOUTS["plain"], 0.3) is by_piece


def test_a_row_that_32_bits_do_not_count_goes_by_pieces(install):
    install(torch_2_13)
    shape = lambda heads, tokens: torch.empty((1, heads, tokens, 128), device="meta")  # noqa: E731
    pieces = end_to_end([2**16])
    assert form_for(shape(256, 2**16), shape(256, 2**16), shape(256, 2**16), pieces, 128**-0.5) is by_piece
    many = Layout((4,) * 2**17, (0,) * 2**17, (0,) * 2**17)  # every piece may be rounded up
    assert form_for(shape(1, 2**19), shape(1, 2**19), shape(1, 2**19), many, 128**-0.5) is by_piece


def test_only_cuda_from_sm80_on_and_16_bits(monkeypatch):
    assert not supports(CPU, torch.bfloat16, (64, 64))
    cuda = torch.device("cuda")
    for capability, wanted in (((7, 0), False), ((8, 0), True), ((9, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, it=capability: it)
        assert supports(cuda, torch.bfloat16, (64, 64)) == wanted
    assert not supports(cuda, torch.float32, (64, 64))
    assert not supports(cuda, torch.float16, (192, 128))
    assert not supports(cuda, torch.float16, (20, 20)) and not supports(cuda, torch.float16, (264, 264))
