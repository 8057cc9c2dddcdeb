"""Whole runs with stage: gkd: a student learns a teacher on its own answers; batches, processes and a restart change nothing.

Tolerances as in test_grpo: 1e-5 in losses, 2e-5 in weights after a few steps.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from hone import cli
from hone.chat.encoded import IGNORE, Encoded, Example
from hone.config.objectives.taught import Gkd as GkdConfig
from hone.data.order import Steps
from hone.inference.embedded import EmbeddedSampler
from hone.inference.rollout import Sampling
from hone.models.policy import Policy
from hone.models.reference import Reference
from hone.objectives.gkd import Gkd
from hone.training.device import Device
from hone.training.engines.base import Hardware
from hone.training.rollouts import Drawer, RolloutFeed
from tests.runs import largest_difference, weights_of, write_run
from tests.training.test_grpo import history, train
from tests.training.test_rollouts import Rank


@pytest.fixture
def teacher(tmp_path, tiny_tokenizer) -> Path:
    """A sharp one, whose logits are ten times a random model's; its head is padded by 12 ids beyond the same tokenizer."""
    torch.manual_seed(2)
    config = LlamaConfig(
        vocab_size=len(tiny_tokenizer) + 12, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4
    )
    model = LlamaForCausalLM(config)
    model.lm_head.weight.data *= 10
    model.save_pretrained(tmp_path / "teacher")
    tiny_tokenizer.save_pretrained(tmp_path / "teacher")
    return tmp_path / "teacher"


@pytest.fixture
def gkd(tiny_run: dict[str, Any], teacher: Path) -> dict[str, Any]:
    """Settings of a run on a tiny model: eight prompts a step, half of them answered by the student."""
    del tiny_run["lora_target"]
    return tiny_run | {
        "stage": "gkd",
        "teacher_model": str(teacher),
        "max_new_tokens": 8,
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 1,
        "max_steps": 4,
        "finetuning_type": "full",
    }


def run(settings: dict[str, Any], folder: Path) -> Path:
    """Train in this process; the folder."""
    assert cli.main(["train", str(write_run(settings | {"output_dir": str(folder)}, folder.with_suffix(".yaml")))]) == 0
    return folder


def test_a_student_comes_near_its_teacher_on_its_own_answers(gkd, tmp_path):
    """At each token of answers that it draws itself, to prompts that it does not learn from."""
    settings = gkd | {
        "gkd_lambda": 1.0,
        "max_steps": 40,
        "max_new_tokens": 16,
        "val_size": 7,
        "eval_strategy": "steps",
        "eval_steps": 40,
    }
    settings |= {"eval_on_start": True, "lr_scheduler_type": "constant"}
    del settings["warmup_steps"]
    before, *_, after = history(run(settings, tmp_path / "near"), "eval_distill_loss")
    assert after < before / 2, f"{before} before, {after} after"


@pytest.mark.parametrize(
    "variant",
    [
        {"distill_loss": "js", "temperature": 0.6, "top_p": 0.9},
        {"distill_loss": "reverse_kl", "distill_temperature": 2.0, "distill_top_k": 9, "gkd_lambda": 0.8},
    ],
    ids=["js", "reverse_kl"],
)
def test_accumulation_changes_nothing(variant, gkd, tmp_path):
    """The step's eight sequences at once and three by three."""
    whole = run(gkd | variant, tmp_path / "whole")
    parts = run(
        gkd | variant | {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "rollout_batch_size": 3},
        tmp_path / "parts",
    )
    for name in ("loss", "distill_loss", "distill_loss/on_policy", "grad_norm", "completions/mean_length"):
        assert history(parts, name) == pytest.approx(history(whole, name), abs=2e-5)
    assert largest_difference(weights_of(parts), weights_of(whole)) < 2e-5


@pytest.mark.slow
def test_two_processes_equal_one(gkd, tmp_path):
    two = tmp_path / "two"
    settings = gkd | {"per_device_train_batch_size": 4, "val_size": 3, "eval_strategy": "steps", "eval_steps": 4}
    one = run(settings | {"gradient_accumulation_steps": 2}, tmp_path / "one")
    train(settings | {"gradient_accumulation_steps": 1, "output_dir": str(two)}, tmp_path / "two.yaml", world=2)
    for name in ("loss", "distill_loss/on_policy", "completions/mean_length", "eval_distill_loss"):
        assert history(two, name) == pytest.approx(history(one, name), abs=1e-5)
    assert largest_difference(weights_of(two), weights_of(one)) < 2e-5


def test_a_continued_run_is_the_same_run(gkd, tmp_path):
    """Over the end of an epoch of three steps, the last of which is smaller."""
    settings = gkd | {"max_steps": 5, "save_strategy": "steps", "save_steps": 1, "disable_shuffling": False}
    straight = run(settings, tmp_path / "straight")
    shutil.copytree(straight / "checkpoint-2", tmp_path / "continued" / "checkpoint-2")
    continued = run(settings, tmp_path / "continued")
    for name in ("loss", "distill_loss/on_policy", "completions/mean_length", "grad_norm"):
        assert history(continued, name) == history(straight, name)
    assert largest_difference(weights_of(continued), weights_of(straight)) == 0


def test_without_own_answers_it_is_distillation(gkd, tmp_path):
    rows = run(gkd | {"gkd_lambda": 0.0}, tmp_path / "rows")
    distilled = {key: value for key, value in gkd.items() if key != "max_new_tokens"} | {"stage": "distill"}
    assert history(rows, "loss") == pytest.approx(history(run(distilled, tmp_path / "distilled"), "loss"), rel=1e-6)
    assert history(rows, "completions/mean_length") == [] == history(rows, "distill_loss/on_policy")


class Apart(Rank):
    """A process that is alone with its sums."""

    def total(self, values: list[float]) -> list[float]:
        return values


@pytest.fixture
def drawer(tiny_model_dir) -> Drawer:
    """Of four rows with an answer of one token, each answered by the policy in three drawings of ten."""
    objective = Gkd(GkdConfig(teacher_model="t", gkd_lambda=0.3))
    sampling = Sampling(num_new=2, stop_ids=(4,), pad_id=0)
    objective.start(None, sampling)
    policy = Policy(AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32))
    policy.reference = Reference(policy)
    device = Device(Hardware(precision="no", use_cpu=True))
    return Drawer(objective, policy, device, EmbeddedSampler(policy.causal), sampling, lambda rows: f"rows {rows}", 4, 0)


def answered(drawer: Drawer, seed: int, first: int, end: int) -> list[list[tuple[int, int]]]:
    """Of each step the row and the first token of each answer that was drawn."""
    ids = np.array([1, 40, 50], np.int32)
    tokens = [Example((Encoded(ids, np.array([IGNORE, IGNORE, 50], np.int32)),))] * 4
    steps = Steps(np.full(4, 3), per_step=4, micro=4, world=1, seed=seed)
    found = []
    for batches in RolloutFeed(drawer, tokens, steps, seed=seed).steps(first, end):
        batch, own = batches[0].batch, batches[0].batch.aside["on_policy"].bool().tolist()
        drawn = [(row, int(batch.ids_BT[batch.sequences_BT == place][2])) for place, row in enumerate(batch.rows) if own[place]]
        found.append(drawn if batches[0].counts else [])
    return found


def test_which_prompts_are_answered_follows_from_seed_drawing_and_row(drawer):
    steps = answered(drawer, 5, 0, 40)
    assert 0.2 < sum(map(len, steps)) / 160 < 0.4
    assert all(0 < sum(row == one for step in steps for row, _ in step) < 40 for one in range(4)), "not the same rows each time"
    assert len({tuple(row for row, _ in step) for step in steps}) > 8
    assert answered(drawer, 5, 20, 40) == steps[20:], "a run that is continued"
    assert answered(drawer, 6, 0, 40) != steps
    parts = [answered(replace(drawer, device=Apart(drawer.device, rank, 2)), 5, 0, 40) for rank in (0, 1)]
    assert [sorted(one + other) for one, other in zip(*parts, strict=True)] == list(map(sorted, steps)), "two processes"


def test_rows_without_an_answer_will_do_where_all_are_drawn(gkd, tmp_path, capsys):
    rows = [{"instruction": f"Say {number}", "input": ""} for number in range(8)]
    (tmp_path / "data" / "rows.json").write_text(json.dumps(rows))
    assert history(run(gkd | {"gkd_lambda": 1.0, "max_steps": 2}, tmp_path / "prompts"), "loss")
    capsys.readouterr()
    assert cli.main(["train", str(write_run(gkd | {"output_dir": str(tmp_path / "no")}, tmp_path / "no.yaml"))]) != 0
    assert 'no column "output"' in capsys.readouterr().err
