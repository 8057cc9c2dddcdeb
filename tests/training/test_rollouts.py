"""Answers drawn step by step: checked against the trainer, kept between uses, put back on any number of processes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from hone.chat.encoded import IGNORE, Encoded, Example
from hone.config.objective import Grpo as GrpoConfig
from hone.data.order import Steps
from hone.errors import TrainingError
from hone.inference.embedded import EmbeddedSampler
from hone.inference.rollout import Drawn, Prompt, Sampling
from hone.models.policy import Policy
from hone.objectives.grpo import Grpo
from hone.training.device import Device
from hone.training.engines.base import Hardware
from hone.training.rollouts import Drawer, RolloutFeed
from tests.objectives.test_grpo import Speller

SAMPLING = Sampling(num_new=5, stop_ids=(4,), pad_id=0)


class Rank(Device):
    """One of several processes that are not there: the others would say what this one says, and have a batch at least."""

    def __init__(self, device: Device, rank: int, world: int):
        self.__dict__ |= device.__dict__ | {"rank": rank, "world": world}

    def gather(self, value: Any) -> list[Any]:
        return [value] * (self.world - 1) + [max(1, value) if isinstance(value, int) else value]


class Stale:
    """An engine that runs other weights than the policy's."""

    def __init__(self, sampler: EmbeddedSampler, shift: float):
        self._sampler, self._shift = sampler, shift

    def refresh(self) -> None:
        self._sampler.refresh()

    def close(self) -> None:
        self._sampler.close()

    def draw(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Drawn]:
        return [replace(one, logprobs=one.logprobs + self._shift) for one in self._sampler.draw(prompts, sampling)]


def example(*ids: int) -> Example:
    note = json.dumps({"answer": "a", "prompt": [], "columns": {}})
    return Example((Encoded(np.array(ids, np.int32), np.full(len(ids), IGNORE, np.int32)),), note=note)


TOKENS = [example(1, 40, 50), example(1, 9), example(3, 4, 5, 6), example(7)]


@pytest.fixture
def drawer(tiny_model_dir) -> Drawer:
    """Draws two answers to each of two prompts a step, used twice."""
    torch.manual_seed(0)
    objective = Grpo(GrpoConfig(reward_funcs=("length",), num_generations=2, num_iterations=2, sync_check_steps=2))
    objective.start(Speller(), SAMPLING)
    policy = Policy(AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32))
    device = Device(Hardware(precision="no", use_cpu=True))
    sampler = EmbeddedSampler(policy.causal, batch_size=3)
    return Drawer(objective, policy, device, sampler, SAMPLING, lambda rows: f"rows {rows}", micro=3, pad_id=0)


def feed_of(drawer: Drawer) -> RolloutFeed:
    steps = Steps(np.array([3, 2, 4, 1]), per_step=2, micro=2, world=1, seed=5)
    return RolloutFeed(drawer, TOKENS, steps, seed=5)


def ids_of(batches) -> list[list[int]]:
    return [micro.batch.ids_BT.flatten().tolist() for micro in batches]


def test_answers_are_drawn_anew_when_they_are_used_up(drawer):
    one, two, three = feed_of(drawer).steps(0, 3)
    assert ids_of(one) == ids_of(two) != ids_of(three)
    assert [len(micro.batch.rows) for micro in one] == [3, 1]
    assert one[0].metrics["reward"] == two[0].metrics["reward"] and not one[1].metrics


def test_the_trainers_own_log_probs_come_with_answers_that_are_used_again(drawer):
    (batches,) = feed_of(drawer).steps(0, 1)
    batch = batches[0].batch
    with torch.no_grad():
        own_BT = drawer.policy.token_logprobs(batch)
    torch.testing.assert_close(batch.aside["old"], own_BT, rtol=0, atol=1e-5)  # another packing, another order of sums


def test_padded_batches_carry_the_same(drawer):
    (packed,) = feed_of(drawer).steps(0, 1)
    drawer.policy.can_pack = False
    (padded,) = feed_of(drawer).steps(0, 1)
    for one, other in zip(packed, padded, strict=True):
        learned, there = one.batch.labels_BT != IGNORE, other.batch.labels_BT != IGNORE
        assert one.batch.labels_BT[learned].tolist() == other.batch.labels_BT[there].tolist()
        torch.testing.assert_close(one.batch.aside["old"][learned], other.batch.aside["old"][there], rtol=0, atol=1e-5)
        assert one.batch.aside["advantage"].tolist() == other.batch.aside["advantage"].tolist()


@pytest.mark.parametrize("world", [1, 2, 3, 6])
def test_what_is_still_to_be_used_is_put_back_on_any_number_of_processes(world, drawer):
    feed = feed_of(drawer)
    next(feed.steps(0, 1))
    state, counted = feed.state(1), []
    for rank in range(world):
        other = feed_of(replace(drawer, device=Rank(drawer.device, rank, world)))
        other.restore(state)
        (batches,) = other.steps(1, 2)
        assert {name: total / count for name, (total, count) in batches[0].metrics.items()} == pytest.approx(
            {name: total / count for name, (total, count) in feed._metrics.items()}
        )
        counted += [row for micro in batches if micro.counts for row in micro.batch.rows]
    assert counted == [lesson.row for lesson in feed._lessons]


def test_a_step_that_draws_anew_needs_no_state(drawer):
    feed = feed_of(drawer)
    list(feed.steps(0, 2))
    assert feed.state(2) == {}


@pytest.mark.parametrize("shift", [0.2, -0.2, float("nan")])
def test_an_engine_that_runs_another_policy_is_found_out(shift, drawer):
    with pytest.raises(
        TrainingError, match=r"does not run the policy.* differ by (0\.2|nan) on average \(sync_check_bound: 0.1\)"
    ):
        next(feed_of(replace(drawer, sampler=Stale(drawer.sampler, shift))).steps(0, 1))


def test_it_is_looked_at_again_every_so_many_steps(drawer):
    """Two steps after the check at the start, not before."""
    sampler = Stale(drawer.sampler, 0.0)
    steps = feed_of(replace(drawer, sampler=sampler)).steps(0, 4)
    next(steps)
    sampler._shift = 5.0
    next(steps)
    with pytest.raises(TrainingError, match="does not run the policy"):
        next(steps)
