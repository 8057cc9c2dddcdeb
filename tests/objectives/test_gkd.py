"""GKD: the loss on a vocabulary of two tokens by hand, what is learned of drawn and of given answers, and what is told."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import Tensor

from hone.chat.encoded import IGNORE, Encoded, Example
from hone.config.objectives.taught import Gkd as GkdConfig
from hone.data.batch import Batch, pack
from hone.data.sample import Dialog, Task
from hone.inference.rollout import Drawn, Sampling
from hone.kernels.distribution import Measure, of_logits
from hone.models.tap import rows_at_labels
from hone.objectives.gkd import Gkd
from hone.objectives.onpolicy import Rollout
from tests.objectives.test_grpo import Alone

TEACHER, STUDENT = torch.tensor([3.0, 1.0]).log(), torch.tensor([1.0, 1.0]).log()
"""Probabilities 3/4 and 1/4, 1/2 and 1/2."""
M = (0.625, 0.375)
BY_HAND = {
    "forward_kl": 0.75 * math.log(1.5) + 0.25 * math.log(0.5),
    "reverse_kl": 0.5 * math.log(2 / 3) + 0.5 * math.log(2),
    "js": 0.5 * (0.75 * math.log(0.75 / M[0]) + 0.25 * math.log(0.25 / M[1]))
    + 0.5 * (0.5 * math.log(0.5 / M[0]) + 0.5 * math.log(0.5 / M[1])),
}
EXACT = {"rtol": 1e-5, "atol": 1e-6}  # fp32's own roundings


class Fixed:
    """A policy with the same logits before every token; its reference has others."""

    def __init__(self, logits_V: Tensor, teacher_V: Tensor | None = None):
        self.logits_V = logits_V
        if teacher_V is not None:
            self.reference = Fixed(teacher_V)

    def _logits(self, batch: Batch) -> Tensor:
        return self.logits_V.expand(batch.num_trained, -1)

    def measured(self, batch: Batch, measure: Measure) -> Tensor:
        return rows_at_labels(of_logits(self._logits(batch), measure), batch.labels_BT)

    def label_logits(self, batch: Batch) -> Callable[[slice], Tensor]:
        return lambda part: self._logits(batch)[part]

    @contextmanager
    def balance(self, batch: Batch) -> Iterator[Callable[[], Tensor]]:
        yield lambda: torch.zeros(())


def objective(**settings) -> Gkd:
    found = Gkd(GkdConfig(teacher_model="t", **settings))
    found.start(None, Sampling(num_new=4, stop_ids=(1,), pad_id=0, temperature=2.0))
    return found


def rollout(ids: list[int]) -> Rollout:
    figures = np.full(len(ids), -1.0, np.float32)
    drawn = Drawn(np.array(ids, np.int32), figures, figures, ids[-1] == 1, np.full(len(ids), 0.5, np.float32))
    return Rollout(3, "rows row 3", np.array([0, 1, 0], np.int32), "", drawn, {"distill_loss": figures * -2})


def given(*answer: int) -> Example:
    return Example((Encoded(np.array([0, *answer], np.int32), np.array([IGNORE, *answer], np.int32)),))


def batch_of(gkd: Gkd) -> Batch:
    """A drawn answer of two tokens, and a row's own of one."""
    lessons = [*gkd.roll_out([rollout([0, 1])], Alone()).lessons, gkd.lesson(4, given(1))]
    aside = {"on_policy": [one.aside["on_policy"] for one in lessons]}
    return pack([one.sequence for one in lessons], [one.row for one in lessons], aside)


@pytest.mark.parametrize("kind", BY_HAND)
def test_the_loss_by_hand(kind: str) -> None:
    """Three tokens, two of them drawn; every one's loss is the divergence, whatever the token was."""
    gkd = objective(distill_loss=kind)
    batch = batch_of(gkd)
    found = gkd.loss(Fixed(STUDENT, TEACHER), batch)
    assert float(found.total) == pytest.approx(3 * BY_HAND[kind], rel=1e-5)
    assert gkd.count(batch) == 3
    assert [float(one) for one in found.metrics["distill_loss"]] == pytest.approx([3 * BY_HAND[kind], 3])
    assert [float(one) for one in found.metrics["distill_loss/on_policy"]] == pytest.approx([2 * BY_HAND[kind], 2])


def test_its_gradient_by_hand() -> None:
    """Of the forward KL to the logits: student - teacher, at each of three tokens."""
    logits_V = STUDENT.clone().requires_grad_()
    gkd = objective()
    gkd.loss(Fixed(logits_V, TEACHER), batch_of(gkd)).total.backward()
    torch.testing.assert_close(logits_V.grad, torch.tensor([-0.75, 0.75]), **EXACT)


def test_the_temperature_flattens_both_and_is_made_good() -> None:
    """T = 2: the teacher's odds are sqrt 3 to 1; the loss is times 4, what is told is not."""
    p = math.sqrt(3) / (1 + math.sqrt(3))
    apart = p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))
    gkd = objective(distill_temperature=2.0)
    found = gkd.loss(Fixed(STUDENT, TEACHER), batch_of(gkd))
    assert float(found.total) == pytest.approx(3 * 4 * apart, rel=1e-5)
    assert float(found.metrics["distill_loss"][0]) == pytest.approx(3 * apart, rel=1e-5)


def test_what_was_drawn_is_reckoned_at_the_temperature_of_drawing() -> None:
    """Drawn at 2 by a student of odds 3 to 1: sqrt 3 to 1 there. The divergence from the even teacher is of the model itself."""
    gkd = objective()
    found = gkd.reckon(Fixed(TEACHER, STUDENT), batch_of(gkd))
    odds = math.sqrt(3)
    assert found["old"][0, 3:5].tolist() == pytest.approx([math.log(odds / (1 + odds)), -math.log(1 + odds)], rel=1e-5)
    even = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert found["distill_loss"][0].tolist() == pytest.approx([0, 0, 0, even, even, 0, even], rel=1e-5)


def test_drawn_and_given_answers_become_lessons() -> None:
    gkd = objective()
    found = gkd.roll_out([rollout([0, 1]), rollout([0, 0, 0, 0])], Alone())
    assert [one.sequence.labels.tolist() for one in found.lessons] == [[-100] * 3 + [0, 1], [-100] * 3 + [0] * 4]
    assert found.metrics == {
        "completions/mean_length": (6.0, 2.0),
        "completions/clipped_ratio": (1.0, 2.0),
        "entropy": (3.0, 6.0),
    }
    assert gkd.lesson(4, given(1)).sequence.labels.tolist() == [-100, 1]
    assert gkd.roll_out([], Alone()).metrics.keys() == found.metrics.keys(), "a process none of whose prompts are answered"


def test_an_evaluation_is_of_drawn_tokens() -> None:
    found = objective().judge([rollout([0, 1]), rollout([0, 0, 0, 0])])
    assert found["distill_loss"] == (12.0, 6.0)
    assert tuple(found) == Gkd.metrics
    assert objective().judge([])["distill_loss"] == (0.0, 0.0)


def test_rows_need_an_answer_where_one_may_be_learned() -> None:
    assert objective(gkd_lambda=0.5).sample is Dialog and objective(gkd_lambda=0.5).has_labels
    assert objective(gkd_lambda=1).sample is Task and not objective(gkd_lambda=1).has_labels
    assert objective(gkd_lambda=1).fingerprint != objective(gkd_lambda=0.5).fingerprint
