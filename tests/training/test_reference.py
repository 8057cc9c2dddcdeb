"""Runs with a model beside the one that learns: the base under the adapter, a copy, a teacher; and the ones that are refused.

Tolerance as in test_invariance: 1e-5 in losses, 2e-5 in weights after 3 steps.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hone.commands import check, train
from hone.errors import ConfigError, ModelError
from tests.runs import losses_of, weights_of, write_run
from tests.training import test_worlds
from tests.training.test_invariance import run
from tests.training.test_token_losses import same


@pytest.fixture
def settings(tiny_run) -> dict[str, Any]:
    return {**tiny_run, "max_steps": 3, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1}


@pytest.fixture
def teacher(tmp_path, tiny_tokenizer) -> Path:
    """A wider model than the student, its head padded by 12 ids beyond the same tokenizer."""
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(tiny_tokenizer) + 12, hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "teacher")
    tiny_tokenizer.save_pretrained(tmp_path / "teacher")
    return tmp_path / "teacher"


def history(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "trainer_state.json").read_text())["log_history"]


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_asft_is_held_against_the_base_in_any_layout(kind, settings, tmp_path):
    settings |= {"use_asft_loss": True, "asft_alpha": 5.0, "finetuning_type": kind}
    if kind == "full":
        settings.pop("lora_target")
        settings["learning_rate"] = 0.001  # DFT's gradients are so small that Adam turns rounding into steps
    whole = run(settings, tmp_path, "whole")
    same(run({**settings, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}, tmp_path, "split"), whole)
    told = [record for record in history(whole) if "loss" in record]
    assert abs(told[0]["kl"]) < 1e-6 < told[-1]["kl"], "nothing apart at first"
    assert 0 < told[0]["loss"] < told[0]["nll_loss"]


def test_a_large_alpha_holds_the_model_near_its_reference(settings, tmp_path):
    apart = []
    for alpha in (0.0, 100.0):
        folder = run({**settings, "use_asft_loss": True, "asft_alpha": alpha, "max_steps": 6}, tmp_path, f"alpha{alpha:g}")
        apart.append(history(folder)[-2]["kl"])
    assert apart[1] < apart[0] / 5


def test_a_student_learns_of_its_teacher_in_any_layout(settings, teacher, tmp_path):
    settings |= {"stage": "distill", "teacher_model": str(teacher), "distill_loss": "js", "distill_top_k": 9, "max_steps": 4}
    settings |= {"val_size": 3, "eval_strategy": "steps", "eval_steps": 4, "distill_ce_weight": 0.3, "distill_temperature": 2.0}
    whole = run(settings, tmp_path, "whole")
    same(run({**settings, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}, tmp_path, "split"), whole)
    told = history(whole)
    step, evaluation = told[0], next(record for record in told if "eval_loss" in record)
    assert step["loss"] == pytest.approx(0.7 * 4 * step["distill_loss"] + 0.3 * step["nll_loss"], rel=1e-5)
    assert evaluation["eval_loss"] == pytest.approx(
        0.7 * 4 * evaluation["eval_distill_loss"] + 0.3 * evaluation["eval_nll_loss"], rel=1e-5
    )
    assert "eval_perplexity" not in evaluation, "a divergence has none"


def test_a_student_comes_near_its_teacher(settings, tiny_tokenizer, tmp_path):
    """A sharp teacher, whose logits are ten times a random model's: in 40 steps the student comes half way."""
    torch.manual_seed(2)
    config = LlamaConfig(
        vocab_size=len(tiny_tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
    )
    model = LlamaForCausalLM(config)
    model.lm_head.weight.data *= 10
    model.save_pretrained(tmp_path / "sharp")
    tiny_tokenizer.save_pretrained(tmp_path / "sharp")
    settings |= {"stage": "distill", "teacher_model": str(tmp_path / "sharp"), "finetuning_type": "full", "max_steps": 40}
    settings.pop("lora_target")
    losses = losses_of(run(settings, tmp_path, "near"))
    assert losses[-1] < losses[0] / 2


@pytest.mark.slow
def test_two_processes_learn_the_same_of_a_teacher(settings, teacher, tmp_path):
    settings |= {"stage": "distill", "teacher_model": str(teacher), "per_device_train_batch_size": 2}
    one = test_worlds.run(settings, tmp_path, "one", world=1)
    same(test_worlds.run(settings, tmp_path, "two", world=2), one)


def test_a_teacher_s_adapter_is_on(settings, tmp_path, tiny_model_dir):
    """The base with an adapter teaches the base: at first they are as far apart as the adapter is from nothing."""
    adapter = run({**settings, "learning_rate": 0.1}, tmp_path, "adapter")
    assert weights_of(adapter)
    distilled = {**settings, "stage": "distill", "teacher_model": str(tiny_model_dir), "max_steps": 1, "warmup_steps": 0}
    bare = losses_of(run(distilled, tmp_path, "bare"))[0]
    adapted = losses_of(run({**distilled, "teacher_model_adapters": str(adapter)}, tmp_path, "adapted"))[0]
    assert abs(bare) < 1e-6 and adapted > 1e-3


def test_a_teacher_with_other_tokens_is_refused_by_name_with_both_sizes(settings, teacher, tiny_tokenizer, tmp_path, capsys):
    """Of the same size, two words exchanged: ids would be compared that mean something else. `hone check` tells too."""
    spec = json.loads((teacher / "tokenizer.json").read_text())
    words = spec["model"]["vocab"]
    words["q"], words["z"] = words["z"], words["q"]
    (teacher / "tokenizer.json").write_text(json.dumps(spec))
    path = write_run({**settings, "stage": "distill", "teacher_model": str(teacher)}, tmp_path / "other.yaml")
    size = f"{len(tiny_tokenizer):,}"
    for command in (train, check):
        with pytest.raises(
            ModelError, match=rf"teacher_model: .*teacher has a vocabulary of {size} tokens.* one of {size}; .[qz]. has"
        ):
            command.main([str(path)])
    bigger = PreTrainedTokenizerFast.from_pretrained(teacher)
    bigger.add_tokens(["<extra>"])
    bigger.save_pretrained(teacher)
    with pytest.raises(ModelError, match=rf"a vocabulary of {len(tiny_tokenizer) + 1:,} tokens"):
        train.main([str(path)])


def test_the_plan_counts_the_teacher(settings, teacher, tmp_path):
    folder = run(
        {**settings, "stage": "distill", "teacher_model": str(teacher), "max_steps": 1, "warmup_steps": 0}, tmp_path, "planned"
    )
    plan = json.loads((folder / "plan.json").read_text())["memory"]
    weights = sum(weight.numel() for weight in LlamaForCausalLM.from_pretrained(teacher).parameters())
    assert plan["reference"] == 4 * weights
    alone = run({**settings, "max_steps": 1, "warmup_steps": 0}, tmp_path, "alone")
    assert json.loads((alone / "plan.json").read_text())["memory"]["reference"] == 0


def test_another_teacher_makes_another_run(settings, teacher, tmp_path):
    with pytest.raises(ModelError, match="teacher_model: /nowhere does not exist"):
        train.main([str(write_run({**settings, "stage": "distill", "teacher_model": "/nowhere"}, tmp_path / "far.yaml"))])
    with pytest.raises(ConfigError, match="teacher_model: is missing"):
        train.main([str(write_run({**settings, "stage": "distill"}, tmp_path / "none.yaml"))])
