"""Each loss of a token by hand: a word of probability 1/4 beside one of 3/4, and what its gradient is."""

from __future__ import annotations

import math

import pytest
import torch

from hone.objectives.sft_losses import asft, dft, eaft, smoothed, top_entropy

QUARTER = torch.tensor([math.log(0.25)])


def test_dft_is_minus_p_log_p_and_its_gradient_that_of_minus_p():
    """-1/4 log 1/4 = 0.34657; d/dz of -p at p = 1/4 is -p (1 - p) = -3/16."""
    logits = torch.tensor([[0.0, math.log(3)]], requires_grad=True)
    loss = dft(torch.log_softmax(logits, -1)[:, 0])
    assert loss.item() == pytest.approx(0.25 * math.log(4), abs=1e-6)
    loss.backward()
    assert logits.grad[0].tolist() == pytest.approx([-3 / 16, 3 / 16], abs=1e-6)


def test_asft_adds_a_share_of_the_divergence():
    assert asft(QUARTER, torch.tensor([0.5]), 0.1).item() == pytest.approx(0.25 * math.log(4) + 0.05, abs=1e-6)


def test_eaft_weighs_by_the_entropy_over_three():
    """The entropy of (1/4, 3/4) is 0.56234 nats; squared with alpha 2, and left out with alpha 0."""
    entropy = top_entropy(torch.tensor([[0.0, math.log(3)]], requires_grad=True))
    assert entropy.item() == pytest.approx(0.56234, abs=1e-5)
    assert eaft(QUARTER, entropy, 1.0).item() == pytest.approx(0.56234 / 3 * math.log(4), abs=1e-5)
    assert eaft(QUARTER, entropy, 2.0).item() == pytest.approx((0.56234 / 3) ** 2 * math.log(4), abs=1e-5)
    assert eaft(QUARTER, entropy, 0.0).item() == pytest.approx(math.log(4), abs=1e-6)
    assert not eaft(QUARTER, entropy, 1.0).requires_grad, "the weight is no path for the gradient"


def test_the_entropy_is_of_the_largest_logits_alone():
    """Of 20 equal logits it is log 20, however many small ones are beside them."""
    logits = torch.cat([torch.full((1, 20), 2.0), torch.full((1, 100), 1.9)], dim=1)
    assert top_entropy(logits).item() == pytest.approx(math.log(20), abs=1e-6)
    assert top_entropy(logits, 2).item() == pytest.approx(math.log(2), abs=1e-6)


def test_smoothing_takes_a_share_from_the_label_for_all_words_alike():
    """0.9 log 4 + 0.1 (log 4 + log 4/3) / 2: the mean is over the vocabulary of two."""
    mean = torch.tensor([(math.log(0.25) + math.log(0.75)) / 2])
    wanted = 0.9 * math.log(4) + 0.1 * (math.log(4) + math.log(4 / 3)) / 2
    assert smoothed(QUARTER, mean, 0.1).item() == pytest.approx(wanted, abs=1e-6)
    assert smoothed(QUARTER, mean, 0.0).item() == pytest.approx(math.log(4), abs=1e-6)


def test_smoothing_is_hugging_face_s():
    """LabelSmoother divides by the count; here the sum is."""
    from transformers.trainer_pt_utils import LabelSmoother

    logits = torch.randn(1, 6, 11, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[-100, 3, 4, -100, 0, 10]])
    theirs = LabelSmoother(0.2)({"logits": logits}, labels)
    logprobs = torch.log_softmax(logits[0, labels[0] != -100], -1)
    ids = labels[labels != -100]
    ours = smoothed(logprobs.gather(-1, ids[:, None])[:, 0], logprobs.mean(-1), 0.2)
    assert ours.mean().item() == pytest.approx(theirs.item(), abs=1e-6)
