"""The pairwise loss by hand, and the same whether pairs are packed, padded or share their prompt.

Does not train.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hone.chat.encoded import IGNORE, Encoded, Example
from hone.config.objective import Reward as RewardConfig
from hone.data.batch import pack, pad, share
from hone.models.policy import Policy
from hone.models.value_head import add_value_head
from hone.objectives.reward import Reward, pairwise
from tests.families import tiny


def test_the_loss_is_the_log_likelihood_of_the_right_order():
    losses_P = pairwise(torch.tensor([1.0, 0.0, -2.0]), torch.tensor([1.0, -math.log(3), 0.0]))
    # sigmoid(0) = 1/2; sigmoid(log 3) = 3/4; sigmoid(-2) = 1 / (1 + e^2)
    assert losses_P.tolist() == pytest.approx([math.log(2), math.log(4 / 3), math.log(1 + math.exp(2))], rel=1e-6)


def sequence(*ids: int) -> Encoded:
    array = np.array(ids, np.int32)
    return Encoded(array, np.full_like(array, IGNORE))


PAIRS = [Example((sequence(5, 6, 7, 8), sequence(5, 6, 9))), Example((sequence(3, 4), sequence(3, 11, 12, 13, 14)))]


def test_scores_are_those_of_the_last_tokens_and_each_metric_is_a_sum_over_pairs():
    module = tiny("llama").eval()
    add_value_head(module)
    policy, objective = Policy(module), Reward(RewardConfig())
    with torch.no_grad():
        found = objective.loss(policy, pack(PAIRS))
        alone = [
            float(module.v_head(module.model(input_ids=torch.tensor([one.ids.tolist()])).last_hidden_state)[0, -1])
            for pair in PAIRS
            for one in pair.sequences
        ]
    margins = [alone[0] - alone[1], alone[2] - alone[3]]
    assert float(found.total) == pytest.approx(sum(math.log(1 + math.exp(-margin)) for margin in margins), abs=1e-5)
    assert objective.count(pack(PAIRS)) == 2
    assert found.metrics.keys() == set(objective.metrics)
    sums = {name: float(total) for name, (total, count) in found.metrics.items() if count == 2}
    wanted = {
        "accuracy": sum(margin > 0 for margin in margins),
        "margin": sum(margins),
        "rewards/chosen": alone[0] + alone[2],
        "rewards/rejected": alone[1] + alone[3],
    }
    assert sums == pytest.approx(wanted, abs=1e-5)


def test_pairs_learn_alike_in_every_layout():
    gradients = []
    for batch in (pack(PAIRS), pad(PAIRS, 0), share(PAIRS)):
        torch.manual_seed(0)
        module = tiny("llama").train()
        add_value_head(module)
        Reward(RewardConfig()).loss(Policy(module), batch).total.backward()
        assert module.lm_head.weight.grad is None
        gradients.append(torch.cat([weight.grad.flatten() for weight in module.parameters() if weight.grad is not None]))
    assert gradients[0].norm() > 0
    assert all(torch.allclose(gradients[0], others, atol=1e-6) for others in gradients[1:])
