"""Numbers of whole distributions read inside the model's own forward equal those of all its logits, value and gradient.

Tolerance as in test_policy: 1e-4 of the largest. Does not know any objective.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hone.adapters.apply import attach
from hone.chat.encoded import IGNORE, Encoded
from hone.config.adapter import Lora
from hone.data.batch import pack, pad
from hone.models.policy import Policy
from hone.models.reference import Reference
from hone.models.tap import Head
from tests.architectures import gradients, sequences
from tests.families import tiny
from tests.worlds import under_ddp


def numbers(logits_NV: Tensor, part: slice) -> Tensor:
    """The entropy, which is learned, and the largest probability."""
    logprobs_NV = torch.log_softmax(logits_NV, -1)
    return torch.stack([-(logprobs_NV.exp() * logprobs_NV).sum(-1), logprobs_NV.amax(-1).exp()])


def plain_numbers(module: nn.Module, parts: list[Encoded]) -> Tensor:
    """[2, N], every sequence by itself, from all logits."""
    found = []
    for part in parts:
        ids = torch.as_tensor(part.ids, dtype=torch.int64)[None]
        logits_TV = module(input_ids=ids, use_cache=False).logits[0, :-1].float()
        learned_T = torch.as_tensor(part.labels[1:]) != IGNORE
        found.append(numbers(logits_TV[learned_T], slice(None)))
    return torch.cat(found, dim=1)


def perturb(module: nn.Module) -> None:
    for name, weight in module.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.1)


def assert_equal(module: nn.Module, policy: Policy, layout) -> None:
    parts = sequences()
    batch = layout(parts)
    got = policy.measured(batch, numbers)
    assert got.shape == (2, *batch.labels_BT.shape) and got.dtype == torch.float32
    assert (got[:, batch.labels_BT == IGNORE] == 0).all()
    wanted = plain_numbers(module, parts)
    assert torch.allclose(got[:, batch.labels_BT != IGNORE], wanted, rtol=1e-4, atol=1e-5)
    theirs, ours = gradients(module, wanted[0].sum()), gradients(module, got[0].sum())
    largest = max(gradient.abs().max().item() for gradient in theirs.values())
    for name, gradient in theirs.items():
        assert (ours[name] - gradient).abs().max().item() <= 1e-4 * largest, name


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("layout", [pack, partial(pad, pad_id=0)], ids=["packed", "padded"])
@pytest.mark.parametrize("family", ["llama", "gemma2", "cohere"])
def test_they_are_those_of_all_logits(family, layout, fast):
    module = tiny(family)
    policy = Policy(module)
    assert policy.self_test().fast
    policy.fast = fast
    assert_equal(module, policy, layout)


@pytest.mark.parametrize(
    "adapter",
    [Lora(), Lora(lora_target=("q_proj", "lm_head")), Lora(additional_target=("lm_head",))],
    ids=["frozen head", "adapted head", "trained head"],
)
def test_with_an_adapter_and_against_its_base(adapter):
    module = tiny("llama", tie_word_embeddings=False)
    parts = sequences()
    base_2N = plain_numbers(module, parts).detach()
    module = attach(module, adapter, base_name="tiny")
    perturb(module)
    policy = Policy(module)
    assert_equal(module, policy, pack)
    logits_of = Reference(policy, module.disable_adapter).label_logits(pack(parts))
    seen = []

    def both(logits_nV: Tensor, part: slice) -> Tensor:
        seen.append(logits_of(part))
        assert not seen[-1].requires_grad
        return numbers(logits_nV, part)

    policy.measured(pack(parts), both)[0].sum().backward()
    assert torch.allclose(numbers(seen[0], slice(None)), base_2N, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(seen[0], again) for again in seen[1:]), "formed again in the backward pass"
    assert all(weight.grad is not None for weight in module.parameters() if weight.requires_grad)


def inside_ddp() -> None:
    wrapped = nn.parallel.DistributedDataParallel(tiny("llama"))
    assert_equal(wrapped, Policy(wrapped), pack)


def test_inside_ddp(tmp_path):
    under_ddp(inside_ddp, tmp_path / "said")


def test_nothing_learned_still_reaches_every_weight_with_zeros():
    module = tiny("llama")
    ids = np.arange(3, 9, dtype=np.int32)
    got = Policy(module).measured(pack([Encoded(ids, np.full_like(ids, IGNORE))]), numbers)
    assert got.shape == (2, 1, 6)
    got[0].sum().backward()
    assert all(weight.grad is not None and not weight.grad.any() for weight in module.parameters())


def test_under_autocast_they_are_fp32_and_the_reference_is_the_same_in_the_backward_pass():
    """A trained head forms its logits again, outside autocast: both must be the forward's bf16 ones."""
    module = tiny("llama", tie_word_embeddings=False)
    policy, reference, batch = Policy(module), Reference(Policy(tiny("llama"))), pack(sequences())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits_of = reference.label_logits(batch)
    seen = []

    def both(logits_nV: Tensor, part: slice) -> Tensor:
        seen.append((logits_nV.detach().clone(), logits_of(part)))
        return numbers(logits_nV, part)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = policy.measured(batch, both)
    assert got.dtype == torch.float32
    got[0].sum().backward()
    (mine, its), (mine_again, its_again) = seen
    assert torch.equal(mine, mine_again) and torch.equal(its, its_again)
    assert torch.equal(its, its.bfloat16().float()), "projected in bf16"


def test_a_head_gives_its_family_s_logits():
    module = tiny("gemma2").eval()
    policy, parts = Policy(module), sequences((6,))
    ids = torch.as_tensor(parts[0].ids, dtype=torch.int64)[None]
    hidden = policy.hidden(pack(parts), torch.ones(1, 6, dtype=torch.bool))
    assert torch.allclose(Head(module, policy.logit_map).logits(hidden), module(input_ids=ids).logits[0], atol=1e-5)
