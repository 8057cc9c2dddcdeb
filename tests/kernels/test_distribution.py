"""Numbers of whole distributions, chunk by chunk, equal the reference, value and gradient, for every chunk, map and kind of head.

Tolerances as in test_token_logprobs: fp32 sums over V in another order; bf16 to 2 % of the largest.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from hone.kernels.distribution import chunked, reference, through
from hone.kernels.token_logprobs import reference as token_logprobs
from tests.kernels.test_token_logprobs import MAPS, problem


def measure_of(ids_N: torch.Tensor):
    """Learned: the label's log-prob and a share of the entropy; told: the entropy, and the mean log-prob."""

    def measure(logits_nV: torch.Tensor, part: slice) -> torch.Tensor:
        logprobs_nV = torch.log_softmax(logits_nV, -1)
        entropy_n = -(logprobs_nV.exp() * logprobs_nV).sum(-1)
        label_n = logprobs_nV.gather(-1, ids_N[part].unsqueeze(-1)).squeeze(-1)
        return torch.stack([label_n + 0.3 * entropy_n, entropy_n, logprobs_nV.mean(-1)])

    return measure


def test_closed_form():
    """Two words whose logits are 0 and log 3 have probabilities 1/4 and 3/4."""
    hidden, weight = torch.ones(1, 1), torch.tensor([[0.0], [math.log(3)]])
    learned, entropy, mean = chunked(hidden, weight, None, measure_of(torch.tensor([1]))).squeeze(-1).tolist()
    wanted = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert entropy == pytest.approx(wanted, abs=1e-6)
    assert mean == pytest.approx((math.log(0.25) + math.log(0.75)) / 2, abs=1e-6)
    assert learned == pytest.approx(math.log(0.75) + 0.3 * wanted, abs=1e-6)


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
            out = form(h, w, o, measure_of(ids))
            (out[0] * weights).sum().backward()
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
            out = through(lambda x, w=w: x @ w.T + offset, h, 11, measure_of(ids), which, chunk_elements=25)
        else:
            out = reference(h, w, offset, measure_of(ids), which)
        out[0].square().sum().backward()
        grads.append([out, h.grad, w.grad])
    for wanted, got in zip(*grads, strict=True):
        assert torch.allclose(wanted, got, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("trained", [True, False])
def test_what_is_told_has_no_gradient_and_no_positions_give_none(trained):
    hidden, weight, _, ids = problem(6, 4, 9, bias=False)
    h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_(trained)
    for form in (chunked, reference):
        out = form(h, w, None, measure_of(ids))
        gradient = torch.autograd.grad(out[1:].sum(), h, allow_unused=True, materialize_grads=True)[0]
        assert not gradient.any()
    empty = chunked(h[:0], w, None, measure_of(ids[:0]))
    assert empty.shape == (3, 0)
    empty[0].sum().backward()
    assert h.grad is not None and not h.grad.any()


def test_only_the_head_trained():
    hidden, weight, _, ids = problem(6, 4, 9, bias=False)
    w, v = weight.clone().requires_grad_(), weight.clone().requires_grad_()
    chunked(hidden, w, None, measure_of(ids), chunk_elements=20)[0].sum().backward()
    reference(hidden, v, None, measure_of(ids))[0].sum().backward()
    assert torch.allclose(w.grad, v.grad, atol=1e-5)


@pytest.mark.parametrize("trained", [True, False])
def test_autocast_projects_in_bf16_and_measures_in_fp32(trained):
    """The backward runs outside autocast, as in the loop; the logits are the same bf16 ones."""
    hidden, weight, _, ids = problem(64, 32, 50, bias=False)
    out = []
    for form in (reference, chunked):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_(trained)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            numbers = form(h, w, None, measure_of(ids))
        assert numbers.dtype == torch.float32
        numbers[0].sum().backward()
        out.append([numbers, h.grad, *([w.grad] if trained else [])])
    assert torch.allclose(out[0][0], out[1][0], atol=1e-5)  # the same bf16 logits; the order of fp32 sums differs
    for wanted, got in zip(out[0][1:], out[1][1:], strict=True):
        assert got.dtype == torch.float32
        assert (wanted - got).abs().max() < 0.02 * wanted.abs().max()


@pytest.mark.parametrize("trained", [True, False])
def test_no_tensor_of_all_logits_is_formed(trained):
    """With 4,000 positions and 3,000 ids the largest tensor made has a chunk of logits, not 12 million elements."""
    hidden, weight, _, ids = problem(4000, 8, 3000, bias=False)
    hidden.requires_grad_(), weight.requires_grad_(trained)
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            largest = max(largest, out.numel()) if isinstance(out, torch.Tensor) else largest
            return out

    with Watch():
        chunked(hidden, weight, None, measure_of(ids), chunk_elements=300_000)[0].sum().backward()
    assert largest <= 300_000


def test_the_log_prob_of_a_label_is_the_same_as_the_narrower_operation():
    hidden, weight, offset, ids = problem(12, 6, 17, bias=True)

    def label(logits_nV: torch.Tensor, part: slice) -> torch.Tensor:
        return torch.log_softmax(logits_nV, -1).gather(-1, ids[part].unsqueeze(-1)).T

    got = chunked(hidden, weight, offset, label, chunk_elements=50)[0]
    assert torch.allclose(got, token_logprobs(hidden, weight, offset, ids), atol=1e-6)
