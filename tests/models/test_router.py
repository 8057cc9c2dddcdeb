"""The router's balance loss: by hand, the same however the sequences are laid out, with a gradient, and only where it is wanted.

Tolerance 1e-5: fp32 sums in another order.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, tensor

from hone.chat.encoded import IGNORE
from hone.data.batch import Batch, pack, pad
from hone.errors import ModelError
from hone.models.checkpointing import recompute_activations
from hone.models.policy import Policy
from hone.models.router import balance_losses
from tests.architectures import sequences
from tests.families import tiny


def test_two_sequences_by_hand():
    """Both choose expert 0 of two, once a token; the first with probability 3/4 (logits ln 3, 0), the second with 1/2."""
    three = torch.log(tensor(3.0))
    logits = torch.stack([tensor([three, 0.0]), tensor([three, 0.0]), tensor([1e-4, 0.0])])
    losses_S, sequence_BT = balance_losses([logits], tensor([[1, 1, 2]]), top_k=1)
    assert losses_S[sequence_BT][0].tolist() == pytest.approx([2 * 0.75, 2 * 0.75, 2 * 0.5], abs=1e-3)


def test_in_balance_it_is_the_number_of_experts_a_token_takes():
    logits = tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
    losses_S, _ = balance_losses([logits], tensor([[1, 1]]), top_k=2)
    assert losses_S.max().item() == pytest.approx(2.0)


def test_padding_is_no_part_of_it():
    logits = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    alone, _ = balance_losses([logits[:3]], tensor([[1, 1, 1]]), top_k=2)
    padded, sequence_BT = balance_losses([logits], tensor([[1, 1, 1, 0], [1, 1, 1, 1]]), top_k=2)
    assert padded[sequence_BT[0, 0]].item() == pytest.approx(alone.max().item())


def trained(
    family: str, batches: list[Batch], coefficient: float | None, *, recompute: bool = False
) -> tuple[float, dict[str, Tensor]]:
    module = tiny(family)
    if recompute:
        recompute_activations(module)
    policy = Policy(module.train(), coefficient)
    policy.can_pack = True
    total = sum(policy.token_losses(batch).sum() for batch in batches)
    total.backward()
    return total.item(), {name: weight.grad.clone() for name, weight in module.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "gpt_oss", "ernie4_5_moe"])
def test_loss_and_gradient_are_the_same_in_every_layout(family):
    parts = sequences()
    wanted, theirs = trained(family, [pack([part]) for part in parts], 0.5)
    without, _ = trained(family, [pack(parts)], 0)
    assert wanted > without + 1
    for batches in ([pack(parts)], [pad(parts, 0)], [pack(parts[:2]), pack(parts[2:])]):
        got, ours = trained(family, batches, 0.5)
        assert got == pytest.approx(wanted, rel=1e-5)
        largest = max(gradient.abs().max() for gradient in theirs.values())
        for name, gradient in theirs.items():
            assert (ours[name] - gradient).abs().max() <= 1e-5 * largest, name


def test_its_gradient_is_that_of_the_models_own_loss_on_one_sequence():
    """transformers: mean cross-entropy + coefficient * balance loss; ours is that times the number of trained tokens."""
    part = sequences((9,))[0]
    batch = pack([part])
    _, ours = trained("mixtral", [batch], 0.5)
    module = tiny("mixtral", router_aux_loss_coef=0.5).train()
    labels = batch.labels_BT
    module(input_ids=batch.ids_BT, labels=labels, use_cache=False, output_router_logits=True).loss.backward()
    count = (labels != IGNORE).sum()
    for name, weight in module.named_parameters():
        assert torch.allclose(ours[name], count * weight.grad, rtol=1e-3, atol=1e-5), name
    assert ours["model.layers.0.mlp.gate.weight"].abs().max() > 0


def test_recomputed_activations_change_nothing():
    kept, recomputed = (trained("qwen3_moe", [pack(sequences())], 0.5, recompute=wanted) for wanted in (False, True))
    assert kept[0] == recomputed[0]
    assert all(torch.allclose(kept[1][name], recomputed[1][name], atol=1e-5) for name in kept[1])


def test_left_out_the_models_config_decides():
    on = tiny("mixtral", output_router_logits=True, router_aux_loss_coef=0.25)
    assert Policy(on).router_loss == 0.25
    assert Policy(on, 0).router_loss == 0
    assert Policy(tiny("mixtral", output_router_logits=False)).router_loss == 0
    assert Policy(tiny("llama")).router_loss == 0
    assert on.config.output_router_logits, "what is saved is what was read"


def test_evaluation_is_without_it():
    policy = Policy(tiny("mixtral"), 0.5)
    batch = pack(sequences())
    assert torch.equal(policy.token_losses(batch), -policy.token_logprobs(batch))


@pytest.mark.parametrize(("family", "why"), [("llama", "has no experts"), ("deepseek_v3", "without a loss")])
def test_asked_of_a_model_that_has_none_it_is_refused(family, why):
    with pytest.raises(ModelError, match=why):
        Policy(tiny(family), 0.001)
