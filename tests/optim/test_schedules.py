"""Every schedule equals transformers' own numbers at every step, to 1e-12: both are the same few double operations."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import get_scheduler

from hone.config.optimizer import OptimizerConfig
from hone.errors import ConfigError
from hone.optim.build import build_schedule, schedule_factor, warmup_steps

CASES = [
    ("linear", {}),
    ("cosine", {}),
    ("cosine", {"num_cycles": 1.5}),
    ("cosine_with_restarts", {}),
    ("cosine_with_restarts", {"num_cycles": 3}),
    ("polynomial", {}),
    ("polynomial", {"lr_end": 1e-6, "power": 2.0}),
    ("constant", {}),
    ("constant_with_warmup", {}),
    ("inverse_sqrt", {}),
    ("inverse_sqrt", {"timescale": 7}),
    ("cosine_with_min_lr", {"min_lr": 1e-5}),
    ("cosine_with_min_lr", {"min_lr_rate": 0.1}),
    ("cosine_warmup_with_min_lr", {"min_lr_rate": 0.1}),
    ("cosine_warmup_with_min_lr", {"min_lr": 1e-6, "warmup_lr_rate": 0.2}),
    ("warmup_stable_decay", {"num_decay_steps": 5}),
    ("warmup_stable_decay", {"num_decay_steps": 4, "decay_type": "1-sqrt", "warmup_type": "cosine", "min_lr_ratio": 0.1}),
    ("warmup_stable_decay", {"num_decay_steps": 6, "num_stable_steps": 3, "decay_type": "linear", "warmup_type": "1-sqrt"}),
]


def rates(make, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    schedule, seen = make(optimizer), []
    for _ in range(steps):
        seen.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return seen


@pytest.mark.parametrize(("name", "numbers"), CASES)
@pytest.mark.parametrize("warmup", [0, 4])
@pytest.mark.filterwarnings("ignore:Both num_training_steps")
def test_equal_to_transformers_at_every_step(name, numbers, warmup):
    config = OptimizerConfig(learning_rate=1e-3, lr_scheduler_type=name, lr_scheduler_kwargs=numbers, warmup_steps=warmup)
    ours = rates(lambda optimizer: build_schedule(optimizer, config, 20), 23)
    theirs = rates(
        lambda optimizer: get_scheduler(
            name, optimizer, num_warmup_steps=warmup, num_training_steps=20, scheduler_specific_kwargs=dict(numbers)
        ),
        23,
    )
    assert ours == pytest.approx(theirs, abs=1e-12, rel=1e-12)


def test_warmup_stable_decay_stays_a_third_without_numbers():
    """30 steps, no warm-up: 10 at the highest rate, then 20 steps of half a cosine: its middle is step 20."""
    config = OptimizerConfig(lr_scheduler_type="warmup_stable_decay")
    factor = schedule_factor(config, 30)
    assert [factor(step) for step in (0, 9, 10)] == [1.0, 1.0, 1.0]
    assert factor(20) == pytest.approx(0.5)
    assert factor(30) == 0.0


@given(st.floats(0, 1), st.integers(1, 5000))
def test_warmup_ratio_rounds_up_as_transformers_does(ratio, total):
    from math import ceil

    assert warmup_steps(OptimizerConfig(warmup_ratio=ratio), total) == ceil(total * ratio)


def test_warmup_steps_wins_and_below_one_is_a_share():
    assert warmup_steps(OptimizerConfig(warmup_steps=7, warmup_ratio=0.5), 100) == 7
    assert warmup_steps(OptimizerConfig(warmup_steps=0.101), 100) == 11


@settings(max_examples=60, deadline=None)
@given(case=st.sampled_from(CASES), warmup=st.integers(0, 9), total=st.integers(15, 60))
def test_no_schedule_leaves_zero_to_one(case, warmup, total):
    config = OptimizerConfig(learning_rate=1e-3, lr_scheduler_type=case[0], lr_scheduler_kwargs=case[1], warmup_steps=warmup)
    factor = schedule_factor(config, total)
    assert all(-1e-12 <= factor(step) <= 1 + 1e-12 for step in range(total + 1))


def test_mistakes_are_named():
    def message(**settings) -> str:
        with pytest.raises(ConfigError) as caught:
            schedule_factor(OptimizerConfig.model_construct(**{**OptimizerConfig().model_dump(), **settings}), 10)
        return str(caught.value)

    assert 'did you mean "cosine"' in message(lr_scheduler_type="cosin")
    assert "evaluation loss" in message(lr_scheduler_type="reduce_lr_on_plateau")
    assert 'did you mean "num_cycles"' in message(lr_scheduler_type="cosine", lr_scheduler_kwargs={"num_cycle": 2})
    assert "min_lr or min_lr_rate" in message(lr_scheduler_type="cosine_with_min_lr")
    assert "not below learning_rate" in message(lr_scheduler_type="polynomial", lr_scheduler_kwargs={"lr_end": 1.0})
    assert '"step" is not one of linear' in message(
        lr_scheduler_type="warmup_stable_decay", lr_scheduler_kwargs={"decay_type": "step"}
    )
