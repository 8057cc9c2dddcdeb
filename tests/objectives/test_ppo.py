"""PPO: scores become rewards, advantages and returns over all processes, and the loss is the papers' formula, by hand."""

from __future__ import annotations

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from hone.config.objective import Ppo as PpoConfig
from hone.data.batch import Batch, pack, pad
from hone.errors import TrainingError
from hone.inference.rollout import Drawn, Sampling
from hone.objectives.onpolicy import Lesson, Rollout
from hone.objectives.ppo import Ppo
from hone.objectives.returns import SMALL
from tests.objectives.told import Routed

SAMPLING = Sampling(num_new=4, stop_ids=(9,), pad_id=0)
EXACT = {"rtol": 1e-5, "atol": 1e-6}  # fp32's own roundings


class Speller:
    """Stands for codec and tokenizer: token n is the letter n of the alphabet; a conversation ends with token 7 after a stop."""

    closing = (7,)
    stop_ids = (9,)

    @property
    def tokenizer(self) -> Speller:
        return self

    def decode(self, ids: Any) -> str:
        return "".join(chr(97 + int(token)) for token in ids)


class Alone:
    """One process."""

    rank = 0

    def gather(self, value: Any) -> list[Any]:
        return [value]


class Thread:
    """One of several processes, each a thread."""

    def __init__(self, rank: int, values: list[Any], barrier: threading.Barrier):
        self.rank, self._values, self._barrier = rank, values, barrier

    def gather(self, value: Any) -> list[Any]:
        self._values[self.rank] = value
        self._barrier.wait(10)
        found = list(self._values)
        self._barrier.wait(10)
        return found


def objective(scores: Any = None, **settings: Any) -> Ppo:
    """scores: of conversations that begin with prompt token n, its n-th."""
    found = Ppo(PpoConfig(**{"reward_model": "r", "ppo_kl_control": "fixed", **settings}))
    found.start(Speller(), SAMPLING)
    if scores is not None:
        found.take(lambda talks: [scores[talk[0]] for talk in talks])
    return found


def rollout(row: int, ids: list[int], *, old: list[float], reference: list[float], value: list[float]) -> Rollout:
    """An answer to the prompt (row, 6)."""
    old_N, reference_N, value_N = (np.array(one, np.float32) for one in (old, reference, value))
    drawn = Drawn(np.array(ids, np.int32), old_N, old_N, ids[-1] == 9, -old_N)
    reckoned = {"old": old_N, "reference": reference_N, "value": value_N}
    return Rollout(row, f"rows row {row}", np.array([row, 6], np.int32), "", drawn, reckoned)


ROLLOUTS = [
    rollout(0, [3, 9], old=[-1, -1], reference=[-2, -1], value=[0.5, 1.0]),
    rollout(1, [4], old=[-2], reference=[-1], value=[0.0]),
    rollout(2, [4, 4, 9], old=[-2, -1, -3], reference=[-1, -1, -1], value=[0.0, 0.1, 0.2]),
]


def test_scores_become_advantages_and_returns():
    """Coefficient 0.5, gamma = lambda = 1: first answer's rewards (-0.5, 2), second's (1 + 0.5).

    Advantages (1.5 - 0.5, 2 - 1) = (1, 1) and 1.5; whitened by mean 7/6 and variance 1/12. Returns (1.5, 2) and 1.5.
    """
    ppo = objective([2.0, 1.0], ppo_kl_coef=0.5, ppo_lambda=1.0)
    found = ppo.roll_out(ROLLOUTS[:2], Alone())
    first, second = (lesson.aside for lesson in found.lessons)
    scale = math.sqrt(1 / 12 + SMALL)
    assert first["return"].tolist() == pytest.approx([0, 0, 1.5, 2])
    assert first["advantage"].tolist() == pytest.approx([0, 0, -1 / 6 / scale, -1 / 6 / scale])
    assert second["return"].tolist() == pytest.approx([0, 0, 1.5])
    assert second["advantage"].tolist() == pytest.approx([0, 0, 1 / 3 / scale])
    assert first["old"].tolist() == [0, 0, -1, -1] and first["value"].tolist() == [0, 0, 0.5, 1]
    figures = {name: total / count for name, (total, count) in found.metrics.items()}
    assert figures == pytest.approx(
        {
            "reward": 1.5, "objective/scores": 1.5, "objective/kl": 0.0, "objective/non_score_reward": 0.0,
            "objective/rlhf_reward": 1.5, "objective/kl_coef": 0.5, "objective/entropy": 2.0,
            "completions/mean_length": 1.5, "completions/clipped_ratio": 0.5,
        }
    )  # fmt: skip


def test_an_answer_that_ended_is_closed_before_it_is_scored():
    """As a reward model learned it; one that was cut off is scored where it broke off."""
    seen: list[list[int]] = []
    ppo = objective()
    ppo.take(lambda talks: [float(seen.append(talk.tolist()) or 1) for talk in talks])
    ppo.roll_out(ROLLOUTS[:2], Alone())
    assert seen == [[0, 6, 3, 9, 7], [1, 6, 4]]


@pytest.mark.parametrize("settings", [{}, {"ppo_whiten_rewards": True, "ppo_score_norm": True, "ppo_kl_control": "adaptive"}])
def test_two_processes_give_what_one_gives(settings):
    scores = [2.0, 1.0, -1.0]
    alone = objective(scores, **settings)
    whole = alone.roll_out(ROLLOUTS, Alone())
    barrier, values = threading.Barrier(2), [None, None]
    both = [objective(scores, **settings) for _ in range(2)]
    shares = (ROLLOUTS[:1], ROLLOUTS[1:])
    with ThreadPoolExecutor(2) as pool:
        parts = list(pool.map(lambda rank: both[rank].roll_out(shares[rank], Thread(rank, values, barrier)), range(2)))
    for one, other in zip(whole.lessons, [lesson for part in parts for lesson in part.lessons], strict=True):
        for name in one.aside:
            np.testing.assert_allclose(one.aside[name], other.aside[name], rtol=1e-6)
    for name, (total, count) in whole.metrics.items():
        sums = [part.metrics[name] for part in parts]
        assert total / count == pytest.approx(sum(a for a, _ in sums) / sum(b for _, b in sums))
    assert both[0].state() == both[1].state() == alone.state()


def test_the_coefficient_and_the_moments_are_carried_on():
    """Divergences 1, -1 and -3: mean -1, which counts as a fifth below the target; three answers of a horizon of 30."""
    settings = {"ppo_kl_control": "adaptive", "ppo_kl_horizon": 30, "ppo_score_norm": True}
    ppo = objective([2.0, 1.0, 0.0], **settings)
    ppo.roll_out(ROLLOUTS, Alone())
    state = ppo.state()
    assert state["kl_coef"] == pytest.approx(0.2 * (1 - 0.2 * 3 / 30))
    assert state["scores"] == pytest.approx({"count": 3, "mean": 1, "variance": 2 / 3})
    other = objective([2.0, 1.0, 0.0], **settings)
    other.load_state(state)
    assert other.roll_out(ROLLOUTS, Alone()).metrics == ppo.roll_out(ROLLOUTS, Alone()).metrics
    assert other.state() == ppo.state() != state


def test_a_score_that_is_no_number_is_told_with_its_row():
    with pytest.raises(
        TrainingError, match="reward_model: r scored rows row 1 with nan, which was answered 'e'; a finite number"
    ):
        objective([1.0, math.nan]).roll_out(ROLLOUTS[:2], Alone())
    with pytest.raises(TrainingError, match="scored rows row 1 with inf"):
        objective([1.0, math.inf]).judge(ROLLOUTS[:2])


def test_what_goes_wrong_on_one_process_is_raised_on_all():
    barrier, values = threading.Barrier(2), [None, None]

    def run(rank: int) -> str:
        with pytest.raises(TrainingError) as told:
            objective([1.0, math.nan]).roll_out(ROLLOUTS[rank : rank + 1], Thread(rank, values, barrier))
        return str(told.value)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(run, range(2))
    assert first == second and "rows row 1" in first


class Given(Routed):
    """A policy whose figures are known: log-probs of labels, and the value of the text up to and with each token."""

    reference = None

    def __init__(self, logprobs_BT: torch.Tensor, values_BT: torch.Tensor):
        self.logprobs_BT, self.values_BT = logprobs_BT, values_BT

    def logprobs_and_values(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        return self.logprobs_BT, self.values_BT


def lesson(ids: list[int], **aside: list[float]) -> Lesson:
    """Of the answer `ids` to the prompt (5, 6)."""
    one = rollout(5, ids, old=aside["old"], reference=aside["old"], value=aside["value"])
    return Lesson(5, one.sequence, {name: one.along(np.array(numbers)) for name, numbers in aside.items()})


LESSONS = [
    lesson([3, 9], old=[-1.0, -1.0], value=[0.0, 0.0], advantage=[1.0, -1.0], **{"return": [1.0, 1.0]}),
    lesson([4], old=[-2.0], value=[0.5], advantage=[2.0], **{"return": [0.5]}),
]


def test_the_loss_by_hand():
    """Ratios 1.5 (clipped to 1.2, A 1), 0.5 (clipped to 0.8, A -1) and 1 (A 2): -1.2 + 0.8 - 2 = -2.4.

    Values 0.1, 1 (clipped to 0.2) and 0.5 against returns 1, 1, 0.5: halves of 0.81, 0.64 and 0, sum 0.725, times 0.1.
    The value of a token is that of the text before it: those of each sequence are one to the left.
    """
    new = [0, 0, -1 + math.log(1.5), -1 + math.log(0.5), 0, 0, -2.0]
    policy = Given(torch.tensor([new]), torch.tensor([[77, 0.1, 1.0, 77, 77, 0.5, 77]]))
    batch = pack(
        [one.sequence for one in LESSONS], [5, 5], {name: [one.aside[name] for one in LESSONS] for name in LESSONS[0].aside}
    )
    ppo = objective()
    policy.balanced = (0.5, 2.0)
    routed = ppo.loss(policy, batch).total
    policy.balanced = ()
    loss = ppo.loss(policy, batch)
    assert float(routed - loss.total) == pytest.approx(2 * 0.5 + 2.0, abs=1e-6), "each drawn token bears its sequence's"
    assert ppo.count(batch) == 3
    torch.testing.assert_close(loss.total, torch.tensor(-2.4 + 0.1 * 0.725), **EXACT)
    figures = {name: float(total) / count for name, (total, count) in loss.metrics.items()}
    assert figures == pytest.approx(
        {
            "loss/policy_avg": -0.8, "loss/value_avg": 0.725 / 3, "policy/clipfrac_avg": 2 / 3, "val/clipfrac_avg": 1 / 3,
            "policy/approxkl_avg": (math.log(1.5) ** 2 + math.log(0.5) ** 2) / 6, "val/ratio": 1.0, "val/error": 0.81 / 3,
        }, abs=1e-6,
    )  # fmt: skip


def test_a_padded_batch_and_single_answers_sum_to_the_packed_loss():
    new = torch.tensor([[0, 0, -0.9, -1.2, 0, 0, -1.7]])
    values = torch.tensor([[0.3, 0.1, 1.0, 0.4, 0.2, 0.6, 0.1]])
    sequences, names = [one.sequence for one in LESSONS], LESSONS[0].aside

    def loss(batch: Batch, logprobs_BT: torch.Tensor, values_BT: torch.Tensor) -> float:
        return float(objective().loss(Given(logprobs_BT, values_BT), batch).total)

    def aside(lessons: list[Lesson]) -> dict[str, list[Any]]:
        return {name: [one.aside[name] for one in lessons] for name in names}

    def rows(figures: torch.Tensor) -> torch.Tensor:
        return torch.stack([figures[0, :4], torch.cat([figures[0, 4:], torch.zeros(1)])])

    packed = loss(pack(sequences, [5, 5], aside(LESSONS)), new, values)
    assert loss(pad(sequences, 0, [5, 5], aside(LESSONS)), rows(new), rows(values)) == pytest.approx(packed, abs=1e-6)
    parts = [(LESSONS[:1], slice(0, 4)), (LESSONS[1:], slice(4, 7))]
    single = [loss(pack([one[0].sequence], [5], aside(one)), new[:, cut], values[:, cut]) for one, cut in parts]
    assert sum(single) == pytest.approx(packed, abs=1e-6)


def test_a_server_is_asked_at_the_start():
    with pytest.raises(TrainingError, match=r"reward_model: the server at http://127.0.0.1:9/x cannot be reached"):
        Ppo(PpoConfig(reward_model="http://127.0.0.1:9/x", reward_model_type="api", reward_retries=0)).start(Speller(), SAMPLING)
