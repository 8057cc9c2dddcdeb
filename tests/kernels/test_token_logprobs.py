"""The chunked log-probs equal the reference, value and gradient, for every chunk size, logit map and kind of head.

Tolerances: fp64 to 1e-10 (the sum over V is all that differs); bf16 to 2 % of the largest, one rounding of 8 bits.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hone.kernels import token_logprobs
from hone.kernels.token_logprobs import LogitMap, chunked, reference, through

MAPS = [LogitMap(), LogitMap(scale=0.25), LogitMap(cap=3.0), LogitMap(scale=2.0, cap=5.0)]


def problem(num: int, width: int, vocab: int, *, bias: bool, dtype=torch.float32):
    generator = torch.Generator().manual_seed(num * 1000 + vocab)
    hidden = torch.randn(num, width, generator=generator, dtype=dtype)
    weight = torch.randn(vocab, width, generator=generator, dtype=dtype)
    offset = torch.randn(vocab, generator=generator, dtype=dtype) if bias else None
    ids = torch.randint(vocab, (num,), generator=generator)
    return hidden, weight, offset, ids


def test_closed_form():
    """Two words whose logits are 0 and log 3 have probabilities 1/4 and 3/4."""
    hidden, weight = torch.ones(2, 1), torch.tensor([[0.0], [math.log(3)]])
    got = chunked(hidden, weight, None, torch.tensor([0, 1]))
    assert torch.allclose(got, torch.log(torch.tensor([0.25, 0.75])), atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(num=st.integers(1, 9), vocab=st.integers(2, 20), chunk=st.integers(1, 80), which=st.sampled_from(MAPS), bias=st.booleans())
def test_equal_to_the_reference_for_any_chunk(num, vocab, chunk, which, bias):
    hidden, weight, offset, ids = problem(num, 5, vocab, bias=bias)
    weights = torch.linspace(-1, 2, num)
    for trained in (True, False):
        grads = []
        for form in (lambda *a: reference(*a, which), lambda *a: chunked(*a, which, chunk_elements=chunk)):
            h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_(trained)
            o = offset.clone().requires_grad_(trained) if bias else None
            out = form(h, w, o, ids)
            (out * weights).sum().backward()
            grads.append([out, h.grad, w.grad, o.grad if bias else None])
        for wanted, got in zip(*grads, strict=True):
            assert (wanted is None) == (got is None)
            assert wanted is None or torch.allclose(wanted, got, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("which", MAPS)
def test_a_head_that_is_not_linear_goes_through(which):
    hidden, weight, offset, ids = problem(7, 4, 11, bias=True)
    grads = []
    for through_head in (True, False):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        if through_head:
            out = through(lambda x, w=w: x @ w.T + offset, h, ids, 11, which, chunk_elements=25)
        else:
            out = reference(h, w, offset, ids, which)
        out.square().sum().backward()
        grads.append([out, h.grad, w.grad])
    for wanted, got in zip(*grads, strict=True):
        assert torch.allclose(wanted, got, rtol=1e-5, atol=1e-5)


def test_only_the_head_trained():
    hidden, weight, _, ids = problem(6, 4, 9, bias=False)
    w = weight.clone().requires_grad_()
    chunked(hidden, w, None, ids, chunk_elements=20).sum().backward()
    v = weight.clone().requires_grad_()
    reference(hidden, v, None, ids).sum().backward()
    assert torch.allclose(w.grad, v.grad, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("which", MAPS)
def test_gradients_expected_to_be_alike_are_right_whether_they_are_or_not(which, dtype):
    hidden, weight, offset, ids = problem(9, 5, 13, bias=True, dtype=dtype)
    tolerance = 1e-5 if dtype == torch.float32 else 0.02

    def gradients(form, weights, times=1):
        given = [one.clone().requires_grad_() for one in (hidden, weight, offset)]
        loss = (form(*given, ids) * weights).sum()
        for _ in range(times):
            loss.backward(retain_graph=True)
        return [one.grad.float() for one in given]

    for weights, times in ((torch.full((9,), -0.3), 1), (torch.full((9,), -0.3), 2), (torch.linspace(-1, 2, 9), 1)):
        wanted = gradients(lambda *a: reference(*a, which), weights, times)
        got = gradients(lambda *a: chunked(*a, which, chunk_elements=40, alike=True), weights, times)
        for one, other in zip(wanted, got, strict=True):
            assert (one - other).abs().max() <= tolerance * one.abs().max()


@pytest.mark.parametrize(("alike", "products"), [(True, 2 * 3), (False, 3 * 3)])
def test_logits_of_a_trained_head_are_formed_once_where_gradients_are_alike(alike, products, monkeypatch):
    """Three chunks: logits and the hidden states' gradient of each, and where nothing is expected the logits again."""
    calls = []
    monkeypatch.setattr(token_logprobs, "product", lambda *given: calls.append(1) or torch.nn.functional.linear(*given))
    hidden, weight, _, ids = problem(9, 4, 10, bias=False)
    hidden.requires_grad_(), weight.requires_grad_()
    chunked(hidden, weight, None, ids, chunk_elements=30, alike=alike).sum().backward()
    assert len(calls) == products


def test_autocast_projects_in_bf16_and_sums_in_fp32():
    hidden, weight, _, ids = problem(64, 32, 50, bias=False)
    out = []
    for form in (reference, chunked):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logprobs = form(h, w, None, ids)
        assert logprobs.dtype == torch.float32
        logprobs.sum().backward()
        out.append([logprobs, h.grad, w.grad])
    assert torch.allclose(out[0][0], out[1][0], atol=1e-5)  # the same bf16 logits; the order of fp32 sums differs
    for wanted, got in zip(out[0][1:], out[1][1:], strict=True):
        assert got.dtype == torch.float32
        assert (wanted - got).abs().max() < 0.02 * wanted.abs().max()


def test_no_tensor_of_all_logits_is_formed(monkeypatch):
    """With 4,000 positions and 3,000 ids the largest tensor made has a chunk of logits, not 12 million elements."""
    hidden, weight, _, ids = problem(4000, 8, 3000, bias=False)
    hidden.requires_grad_(), weight.requires_grad_()
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            largest = max(largest, out.numel()) if isinstance(out, torch.Tensor) else largest
            return out

    with Watch():
        chunked(hidden, weight, None, ids, chunk_elements=300_000).sum().backward()
    assert largest <= 300_000
