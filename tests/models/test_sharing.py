"""Which models share what sequences begin with, and that they see what they would apart (every family: architectures)."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaForCausalLM

from hone.data.batch import pack, share
from hone.models.neftune import add_noise
from hone.models.policy import Policy
from hone.models.sharing import shared_mask
from tests.architectures import pairs
from tests.families import tiny


def looked_at(module: torch.nn.Module, router_loss: float | None = None) -> Policy:
    policy = Policy(module, router_loss)
    policy.self_test()
    policy.test_sharing()
    return policy


def test_a_token_sees_its_own_sequence_and_what_that_shares():
    positions_BT, segments_BT = torch.tensor([[0, 1, 2, 1, 2, 0, 1]]), torch.tensor([[-1, 1, 1, 2, 2, 3, 3]])
    sees = [[1], [1, 1], [1, 1, 1], [1, 0, 0, 1], [1, 0, 0, 1, 1], [0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 1, 1]]
    wanted = torch.tensor([row + [0] * (7 - len(row)) for row in sees]).bool()
    assert torch.equal(shared_mask(tiny("llama"), segments_BT, positions_BT)[0, 0], wanted)
    eager = shared_mask(tiny("llama", attn_implementation="eager"), segments_BT, positions_BT)[0, 0]
    assert torch.equal(eager == 0, wanted) and eager.min() < -1e38


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_log_probs_are_the_same_in_every_kernel(kernel):
    policy = looked_at(tiny("llama", attn_implementation=kernel))
    assert policy.packing == "shared"
    one, other = share(pairs()), pack(pairs())
    with torch.no_grad():
        sums = [batch.sums(policy.token_logprobs(batch)) for batch in (one, other)]
    assert one.ids_BT.numel() < other.ids_BT.numel() and torch.allclose(*sums, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "settings", "why"),
    [
        ("mistral", {"sliding_window": 64}, "its config has a sliding_window"),
        ("gemma2", {"sliding_window": 64}, "full_attention and sliding_attention"),
        ("bloom", {}, "not packed"),
    ],
)
def test_a_window_that_no_short_test_sees_keeps_sequences_whole(family, settings, why, capsys):
    policy = looked_at(tiny(family, **settings))
    assert not policy.can_share and policy.packing != "shared"
    assert why in capsys.readouterr().err


def test_a_router_loss_is_one_of_whole_sequences(capsys):
    assert looked_at(tiny("mixtral"), 0.0).packing == "shared"
    assert looked_at(tiny("mixtral"), 0.5).packing == "packed"
    assert "router's balance loss" in capsys.readouterr().err


def test_noise_is_scaled_by_whole_sequences():
    policy = looked_at(tiny("llama"))
    add_noise(policy, 5.0)
    assert policy.packing == "packed"


class Deaf(LlamaForCausalLM):
    """It makes its mask itself."""

    def forward(self, input_ids, attention_mask=None, **more):
        return super().forward(input_ids, attention_mask=None, **more)


class Strict(LlamaForCausalLM):
    """It takes a mask of padding alone."""

    def forward(self, input_ids, attention_mask=None, **more):
        if attention_mask is not None and attention_mask.dim() != 2:
            raise ValueError("attention_mask must have 2 axes")
        return super().forward(input_ids, attention_mask=attention_mask, **more)


@pytest.mark.parametrize(("family", "why"), [(Deaf, "in the self-test"), (Strict, "reads no such mask: attention_mask must")])
def test_a_forward_that_does_not_take_the_mask_is_found(family, why, capsys):
    torch.manual_seed(0)
    policy = looked_at(family(tiny("llama", attn_implementation="eager").config).eval())
    assert policy.packing == "packed"
    assert why in capsys.readouterr().err
