"""Every loss of a token means the same whatever the micro-batch and layout, and is evaluated plainly.

Two processes are tried in test_reference, with a loss that is computed in the same way.
Tolerance as in test_invariance: 1e-5 in losses, 2e-5 in weights after 3 steps.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hone.models.policy import Policy
from tests.runs import largest_difference, losses_of, weights_of
from tests.training.test_invariance import run

LOSSES: dict[str, dict[str, Any]] = {
    "dft": {"use_dft_loss": True},
    "eaft": {"use_eaft_loss": True, "eaft_alpha": 0.7},
    "smoothed": {"label_smoothing_factor": 0.2},
}


def same(one: Path, other: Path) -> None:
    assert losses_of(one) == pytest.approx(losses_of(other), abs=1e-5)
    assert largest_difference(weights_of(one), weights_of(other)) < 2e-5


@pytest.fixture
def settings(tiny_run) -> dict[str, Any]:
    return {**tiny_run, "max_steps": 3, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1}


@pytest.mark.parametrize("name", LOSSES)
def test_micro_batches_and_padding_change_nothing(name, settings, tmp_path, monkeypatch):
    settings |= LOSSES[name]
    whole = run(settings, tmp_path, "whole")
    same(run({**settings, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}, tmp_path, "split"), whole)
    tested = Policy.self_test

    def cannot_pack(policy: Policy):
        found = tested(policy)
        policy.can_pack = False
        return found

    monkeypatch.setattr(Policy, "self_test", cannot_pack)
    same(run(settings, tmp_path, "padded"), whole)


@pytest.mark.parametrize("name", LOSSES)
def test_the_evaluation_is_the_plain_loss(name, settings, tmp_path):
    """Before the first step the model is the same whatever will be learned, and so is its eval_loss; the logged loss is not."""
    settings |= {
        "max_steps": 1,
        "warmup_steps": 0,
        "val_size": 5,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "eval_on_start": True,
    }
    plain, other = run(settings, tmp_path, "plain"), run({**settings, **LOSSES[name]}, tmp_path, "other")
    first = [
        next(record["eval_loss"] for record in json.loads((folder / "trainer_state.json").read_text())["log_history"])
        for folder in (plain, other)
    ]
    assert first[0] == first[1]
    assert abs(losses_of(plain)[0] - losses_of(other)[0]) > 1e-3
