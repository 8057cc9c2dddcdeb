"""KTO by numbers that can be checked by hand: sigmoid(log 3) = 3/4, sigmoid(log 4) = 4/5. Tolerance: fp32, 1e-5.

A policy that is told its log-probs stands for a model.
"""

from __future__ import annotations

from math import log
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hone.chat.encoded import IGNORE, Encoded, Example
from hone.config.objective import Kto as KtoConfig
from hone.data.batch import pack, pad
from hone.errors import DataError
from hone.objectives.kto import Kto, kto, mismatch
from tests.objectives.told import Told


def sequence(question: int, answer: int, first: int = 0) -> Encoded:
    """`question` tokens and `answer` tokens that are learned, numbered from `first`."""
    ids = np.arange(first, first + question + answer, dtype=np.int32)
    return Encoded(ids, np.where(ids >= first + question, ids, IGNORE).astype(np.int32))


RATED = [
    Example((sequence(2, 4), sequence(2, 1)), 1.0),
    Example((sequence(1, 2), sequence(1, 5)), 0.0),
    Example((sequence(2, 2), sequence(2, 3)), 1.0),
]
LAYOUTS = {"packed": pack(RATED), "padded": pad(RATED, 0)}


def test_a_good_answer_gains_above_the_divergence_and_a_bad_one_below():
    found = kto(torch.tensor([1 + log(3), 1 + log(3)]), torch.tensor([1.0, 0.0]), 1.0, torch.tensor(1.0))
    assert found.tolist() == pytest.approx([1 / 4, 3 / 4], abs=1e-6)
    halved = kto(torch.tensor([1 + 2 * log(4)]), torch.tensor([1.0]), 0.5, torch.tensor(1.0))
    assert halved.tolist() == pytest.approx([1 / 5], abs=1e-6)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_step_s_divergence_is_that_of_the_mismatches(layout):
    measured = Kto(KtoConfig()).measure(Told(-0.5, Told(-1.0)), LAYOUTS[layout])
    assert {name: (float(total), count) for name, (total, count) in measured.items()} == {"kl": (4.5, 3), "good": (2.0, 3)}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_figures_and_plain_learning(layout):
    asked = KtoConfig(pref_beta=1.0, kto_chosen_weight=2.0, kto_rejected_weight=3.0, pref_ftx=0.5)
    objective, batch = Kto(asked), LAYOUTS[layout].beside({"kl": 1.5, "good": 2 / 3})
    loss = objective.loss(Told(-0.5, Told(-1.0)), batch)

    def chance(number: float) -> float:
        return 1 / (1 + np.exp(-number))

    # log-ratios: 2 and 1 of the good answers, 1 of the bad one; plain learning: 0.5 a good answer, the mean over good ones
    wanted = 2 * (1 - chance(0.5)) + 2 * (1 - chance(-0.5)) + 3 * (1 - chance(0.5)) + 3 * 0.5 * 0.5
    assert loss.total.item() == pytest.approx(wanted, abs=1e-5)
    assert objective.count(batch) == 3 and set(loss.metrics) == set(objective.metrics)
    told = {name: float(total) / float(count) for name, (total, count) in loss.metrics.items()}
    wanted_figures = {
        "rewards/chosen": 1.5, "rewards/rejected": 1.0, "rewards/margins": 0.5, "logps/chosen": -1.5, "logps/rejected": -1.0,
        "kl": 1.5, "sft_loss": 0.5,
    }  # fmt: skip
    assert told == pytest.approx(wanted_figures, abs=1e-5)


def test_a_step_of_one_kind_has_no_margin_and_a_divergence_is_not_below_0():
    loss = Kto(KtoConfig(pref_beta=1.0)).loss(Told(-0.5, Told(-1.0)), pack(RATED[:1]).beside({"kl": -7.0, "good": 1.0}))
    assert float(loss.metrics["rewards/margins"][1]) == 0 == float(loss.metrics["kl"][0])
    assert loss.total.item() == pytest.approx(1 - 1 / (1 + np.exp(-2)), abs=1e-6)


def test_a_mismatch_is_one_question_with_another_answer():
    found = mismatch(sequence(3, 2), sequence(1, 4, first=50), longest=100)
    assert found.ids.tolist() == [0, 1, 2, 51, 52, 53, 54] and found.labels.tolist() == [IGNORE] * 3 + [51, 52, 53, 54]
    assert len(mismatch(sequence(3, 2), sequence(1, 4), longest=5)) == 5
    assert len(mismatch(sequence(5, 2), sequence(1, 4), longest=5)) == 6, "one token of the answer stays"


def tokens(values: list[float], lengths: list[int], trained: list[int]) -> SimpleNamespace:
    class Set(SimpleNamespace):
        def __len__(self) -> int:
            return len(self.values)

    def joined(partners, join, total):
        return SimpleNamespace(partners=partners, join=join, lengths=total)

    arrays = {"values": np.array(values), "lengths": np.array(lengths), "trained": np.array(trained)}
    return Set(**arrays, joined=joined)


def test_every_row_has_another_s_answer_and_each_answer_is_taken_once():
    count = 40
    asked = tokens([1.0] * count, [9] * count, [4] * count)
    made = Kto(KtoConfig()).complete(asked, None, seed=3, longest=8)
    assert sorted(made.partners) == list(range(count)) and (made.partners != np.arange(count)).all()
    assert (made.lengths == 9 + 5 + 3).all(), "the mismatch is cut to 8 tokens"
    assert (made.partners == Kto(KtoConfig()).complete(asked, None, seed=3, longest=8).partners).all()
    assert (made.partners != Kto(KtoConfig()).complete(asked, None, seed=4, longest=8).partners).any()
    with pytest.raises(DataError, match="the set has one row"):
        Kto(KtoConfig()).complete(tokens([1.0], [2], [1]), None, seed=0, longest=8)


def test_answers_of_one_kind_alone_are_refused():
    objective = Kto(KtoConfig())
    assert objective.problem_of(tokens([1.0, 0.0], [1, 1], [1, 1])) == ""
    assert "all 2 answers are good" in objective.problem_of(tokens([1.0, 1.0], [1, 1], [1, 1]))
    assert "all 2 answers are bad" in objective.problem_of(tokens([0.0, 0.0], [1, 1], [1, 1]))
