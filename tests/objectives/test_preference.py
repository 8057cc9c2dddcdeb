"""What the preference objective makes of a batch: sums and means of answers, references, mixtures and figures.

A policy that is told its log-probs stands for a model; the formulas have tests of their own.
"""

from __future__ import annotations

from math import log
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hone.chat.encoded import IGNORE, Encoded, Example
from hone.config.objective import Preference as PreferenceConfig
from hone.data.batch import Batch, pack, pad, share
from hone.objectives import answers
from hone.objectives.preference import Preference
from tests.objectives.told import Told


def sequence(question: int, answer: int) -> Encoded:
    """`question` tokens and `answer` tokens that are learned."""
    ids = np.arange(question + answer, dtype=np.int32)
    return Encoded(ids, np.where(ids >= question, ids, IGNORE).astype(np.int32))


PAIRS = [Example((sequence(2, 4), sequence(2, 2))), Example((sequence(3, 1), sequence(3, 3)))]
LAYOUTS = {"packed": pack(PAIRS), "padded": pad(PAIRS, 0), "shared": share(PAIRS)}
TOLD = (-0.5, -1.0)
"""Log-prob of each token of the policy and of its reference: chosen sums -2, -0.5 and -4, -1; rejected -1, -1.5 and -2, -3."""


def losses(batch: Batch, **asked) -> tuple[float, dict[str, float]]:
    policy = Told(TOLD[0], reference=Told(TOLD[1]))
    objective = Preference(PreferenceConfig(**asked))
    loss = objective.loss(policy, batch)
    assert tuple(loss.metrics) == objective.metrics and objective.count(batch) == 2
    return loss.total.item(), {name: float(total) / float(count) for name, (total, count) in loss.metrics.items()}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_dpo_sums_over_pairs_and_tells_their_rewards(layout):
    total, told = losses(LAYOUTS[layout], pref_beta=1.0)
    # log-ratios: chosen 2 and 0.5, rejected 1 and 1.5; margins 1 and -1
    assert total == pytest.approx(sum(-log(1 / (1 + np.exp(-margin))) for margin in (1, -1)), abs=1e-5)
    wanted = {
        "rewards/chosen": 1.25, "rewards/rejected": 1.25, "rewards/accuracies": 0.5, "rewards/margins": 0.0,
        "logps/chosen": -1.25, "logps/rejected": -1.25,
    }  # fmt: skip
    assert told == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_tokens_beyond_the_shorter_answer_count_alpha(layout):
    batch = LAYOUTS[layout]
    found = answers.sums(Told(-1.0), batch, 0.25)
    assert found.tolist() == [-2.5, -2.0, -1.0, -1.5]
    total, _ = losses(batch, pref_beta=1.0, ld_alpha=0.0)  # what is left is as long on both sides
    assert total == pytest.approx(2 * log(2), abs=1e-6)


def test_ipo_compares_means():
    total, told = losses(LAYOUTS["packed"], pref_loss="ipo", pref_beta=0.5)
    assert total == pytest.approx(2 * 1.0, abs=1e-6), "mean log-ratios are 0.5 on both sides, and 1 / (2 beta) is 1"
    assert told["rewards/chosen"] == pytest.approx(0.25) and told["logps/chosen"] == pytest.approx(-1.25)


@pytest.mark.parametrize("loss", ["orpo", "simpo", "cpo"])
def test_some_need_no_reference(loss):
    objective = Preference(PreferenceConfig(pref_loss=loss))
    assert not objective.needs_reference
    assert torch.isfinite(objective.loss(Told(-0.5), LAYOUTS["packed"]).total)


def test_orpo_tells_its_two_parts():
    total, told = losses(LAYOUTS["packed"], pref_loss="orpo", pref_beta=0.1)
    assert told["sft_loss"] == pytest.approx(0.5) and told["odds_ratio_loss"] == pytest.approx(log(2))
    assert total == pytest.approx(2 * (0.5 + 0.1 * log(2)), abs=1e-6)


def test_plain_learning_of_the_chosen_answer_is_its_mean():
    total, told = losses(LAYOUTS["packed"], pref_ftx=2.0, pref_beta=1.0)
    assert total - losses(LAYOUTS["packed"], pref_beta=1.0)[0] == pytest.approx(2 * 2.0 * 0.5, abs=1e-5)
    assert told["sft_loss"] == pytest.approx(0.5)


def test_bco_is_mixed_in_with_the_steps_mean_reward():
    objective, batch = Preference(PreferenceConfig(pref_bco_weight=1.0, pref_beta=1.0)), LAYOUTS["packed"]
    policy = Told(-0.5, reference=Told(-1.0))
    measured = objective.measure(policy, batch)
    assert tuple(measured) == objective.of_step
    of_step = {name: float(total) / count for name, (total, count) in measured.items()}
    assert of_step == {"ratio/chosen": 1.25, "ratio/rejected": 1.25}
    found = objective.loss(policy, batch.beside(of_step)).total.item()
    plain, _ = losses(batch, pref_beta=1.0)

    def cost(number: float) -> float:
        return np.log1p(np.exp(-number))

    bco = cost(2 - 1.25) + cost(1.25 - 1) + cost(0.5 - 1.25) + cost(1.25 - 1.5)
    assert found == pytest.approx((plain + bco) / 2, abs=1e-5)


def test_kto_pair_finds_the_steps_divergences():
    objective, batch = Preference(PreferenceConfig(pref_loss="kto_pair", pref_beta=1.0)), LAYOUTS["packed"]
    policy = Told(-0.5, reference=Told(-1.0))
    found = objective.loss(policy, batch.beside({"ratio/chosen": -3.0, "ratio/rejected": 0.5})).total.item()

    def chance(number: float) -> float:
        return 1 / (1 + np.exp(-number))

    wanted = sum(2 - chance(chosen - 0.5) - chance(0 - rejected) for chosen, rejected in ((2, 1), (0.5, 1.5))) / 2
    assert found == pytest.approx(wanted, abs=1e-5), "a divergence is not below 0"


def test_the_reference_s_numbers_may_lie_beside():
    batch = pack(PAIRS, aside={"reference": [-4.0, -2.0, -1.0, -3.0]})
    objective = Preference(PreferenceConfig(pref_beta=1.0))
    assert objective.loss(Told(-0.5), batch).total.item() == pytest.approx(losses(LAYOUTS["packed"], pref_beta=1.0)[0], abs=1e-6)


def test_the_router_s_balance_loss_is_the_mean_of_the_pair():
    plain, _ = losses(LAYOUTS["packed"], pref_beta=1.0)
    policy = Told(-0.5, reference=Told(-1.0), balance=(1.0, 3.0, 5.0, 9.0))
    found = Preference(PreferenceConfig(pref_beta=1.0)).loss(policy, LAYOUTS["packed"]).total.item()
    assert found == pytest.approx(plain + 2.0 + 7.0, abs=1e-5)


def test_only_the_last_answer_of_each_side_is_learned():
    asked = []

    def encode(talks, learn):
        asked.extend((talk, learn) for talk in talks)
        return [sequence(1, 1) for _ in talks]

    pairs = [SimpleNamespace(chosen="good", rejected="bad"), SimpleNamespace(chosen="fine", rejected="poor")]
    made = Preference(PreferenceConfig()).encode(pairs, SimpleNamespace(encode=encode))
    assert [talk for talk, _ in asked] == ["good", "bad", "fine", "poor"] and {learn for _, learn in asked} == {"last"}
    assert [len(example.sequences) for example in made] == [2, 2]
