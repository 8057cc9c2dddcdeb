"""Pairs and rated answers: a step means the same in every layout, is continued exactly, and learns what real data ask for.

Tolerance of invariance: fp32 sums in another order; 1e-5 in losses, 2e-5 in weights after 6 steps at learning rate 0.01, as in
test_invariance. Resume is compared with no tolerance at all.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hone.commands import check, train
from hone.errors import TrainingError
from hone.models.policy import Policy
from hone.models.reference import Reference
from tests import worlds
from tests.families import tiny
from tests.runs import largest_difference, losses_of, make_rows, weights_of, write_run

SETTINGS = {"max_steps": 6, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1}
STAGES: dict[str, dict[str, Any]] = {
    "dpo": {"stage": "dpo", "dataset": "pairs", "pref_ftx": 0.1, "ld_alpha": 0.5},
    "classifier": {"stage": "dpo", "dataset": "pairs", "pref_bco_weight": 0.5},
    "kto_pair": {"stage": "dpo", "dataset": "pairs", "pref_loss": "kto_pair"},
    "orpo": {"stage": "dpo", "dataset": "pairs", "pref_loss": "orpo"},
    "kto": {"stage": "kto", "dataset": "rated", "kto_rejected_weight": 1.5, "pref_ftx": 0.1},
}
OF_PAIRS: dict[str, dict[str, Any]] = {
    **{name: asked for name, asked in STAGES.items() if asked["dataset"] == "pairs"},
    **{name: {"stage": "dpo", "dataset": "pairs", "pref_loss": name} for name in ("hinge", "ipo", "simpo", "cpo")},
    "robust": {"stage": "dpo", "dataset": "pairs", "pref_loss": "robust", "dpo_label_smoothing": 0.2},
    "rm": {"stage": "rm", "dataset": "pairs"},
}


@pytest.fixture
def stages(tiny_run, tmp_path) -> dict[str, dict[str, Any]]:
    """Settings of a LoRA run by stage, over 23 rows of uneven length."""
    data, rows = Path(tiny_run["dataset_dir"]), make_rows(23)
    pairs = [{**row, "chosen": row["output"], "rejected": row["instruction"][::-1]} for row in rows]
    (data / "pairs.json").write_text(json.dumps(pairs))
    (data / "rated.json").write_text(json.dumps([{**row, "good": number % 3 > 0} for number, row in enumerate(rows)]))
    shapes = {
        "pairs": {"file_name": "pairs.json", "ranking": True, "columns": {"chosen": "chosen", "rejected": "rejected"}},
        "rated": {"file_name": "rated.json", "columns": {"response": "output", "kto_tag": "good"}},
    }
    (data / "dataset_info.json").write_text(json.dumps(shapes))
    return {name: {**tiny_run, **SETTINGS, **more} for name, more in {**STAGES, **OF_PAIRS}.items()}


def run(settings: dict, tmp_path: Path, name: str, **changes: object) -> Path:
    """Train with `changes` into a folder of its own; returns the folder."""
    folder = tmp_path / name
    path = write_run({**settings, "output_dir": str(folder), **changes}, tmp_path / f"{name}.yaml")
    assert train.main([str(path)]) == 0
    return folder


def lines_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "trainer_log.jsonl").read_text().splitlines()]


def require_equal(one: Path, other: Path) -> None:
    """The same losses, figures and weights, within the tolerance above."""
    assert losses_of(one) == pytest.approx(losses_of(other), abs=1e-5)
    for mine, theirs in zip(lines_of(one), lines_of(other), strict=True):
        names = [name for name in mine if "/" in name or name in ("kl", "sft_loss")]
        assert names and {name: mine[name] for name in names} == pytest.approx({name: theirs[name] for name in names}, abs=1e-3)
    assert largest_difference(weights_of(one), weights_of(other)) < 2e-5


@pytest.mark.parametrize("stage", STAGES)
def test_micro_batches_and_padding_change_nothing(stage, stages, tmp_path, monkeypatch):
    whole = run(stages[stage], tmp_path, "whole")
    require_equal(run(stages[stage], tmp_path, "split", per_device_train_batch_size=1, gradient_accumulation_steps=4), whole)
    tested = Policy.self_test

    def cannot_pack(policy: Policy):
        found = tested(policy)
        policy.can_pack = False
        return found

    monkeypatch.setattr(Policy, "self_test", cannot_pack)
    require_equal(run(stages[stage], tmp_path, "padded"), whole)
    assert len(set(losses_of(whole))) > 4


@pytest.mark.parametrize("method", OF_PAIRS)
def test_a_prompt_computed_once_changes_nothing(method, stages, tmp_path, capsys, monkeypatch):
    """Evaluation too, and a reference that is computed before."""
    settings = {**stages[method], "max_steps": 4, "val_size": 5, "do_eval": True, "eval_strategy": "steps", "eval_steps": 2}
    if method in ("ipo", "classifier"):
        settings["precompute_ref"] = True
    once = run(settings, tmp_path, "once")
    assert "prompts are computed once a pair" in capsys.readouterr().err
    monkeypatch.setattr(Policy, "test_sharing", lambda policy: None)
    apart = run(settings, tmp_path, "apart", tokenized_path=str(tmp_path / "another cache"))
    assert "prompts are computed once a pair" not in capsys.readouterr().err
    assert losses_of(once) == pytest.approx(losses_of(apart), abs=1e-5) and len(set(losses_of(once))) > 2
    assert largest_difference(weights_of(once), weights_of(apart)) < 2e-5
    for mine, theirs in zip(lines_of(once), lines_of(apart), strict=True):
        names = [name for name in mine if "/" in name or name.startswith("eval_loss")]
        assert names and {name: mine[name] for name in names} == pytest.approx({name: theirs[name] for name in names}, abs=1e-3)


@pytest.mark.parametrize("stage", ["dpo", "kto"])
def test_two_processes_learn_the_same_as_one(stage, stages, tmp_path):
    """One of the two with the reference's numbers computed before, which the processes share among them."""
    whole = run(stages[stage], tmp_path, "whole")
    changes = {"per_device_train_batch_size": 2, "precompute_ref": stage == "kto"}
    two = worlds.on_two(stages[stage] | changes, tmp_path / "two")
    require_equal(two, whole)


@pytest.mark.parametrize("stage", ["dpo", "kto"])
def test_resume_is_exact_in_the_middle_of_an_epoch(stage, stages, tmp_path):
    settings = {**stages[stage], "disable_shuffling": False, "save_strategy": "steps", "save_steps": 4, "max_steps": 8}
    settings["lora_dropout"] = 0.1
    straight = run(settings, tmp_path, "straight")
    shutil.copytree(straight / "checkpoint-4", tmp_path / "broken" / "checkpoint-4")
    resumed = run(settings, tmp_path, "broken")
    assert losses_of(resumed) == losses_of(straight)[4:]
    assert largest_difference(weights_of(resumed), weights_of(straight)) == 0.0


@pytest.mark.parametrize("stage", ["dpo", "kto"])
def test_a_reference_computed_before_is_the_same_and_computed_once(stage, stages, tmp_path, capsys, monkeypatch):
    kept = {**stages[stage], "val_size": 5, "do_eval": True, "eval_strategy": "steps", "eval_steps": 3, "max_steps": 4}
    beside = run(kept, tmp_path, "beside")
    before = run(kept, tmp_path, "before", precompute_ref=True)
    require_equal(before, beside)
    assert "computing the log-probs of 21 of 21" in capsys.readouterr().err, "16 rows of 4 steps of 18, and 5"

    def never(reference, batch):
        raise AssertionError("the reference was asked again")

    monkeypatch.setattr(Reference, "token_logprobs", never)
    require_equal(run(kept, tmp_path, "again", precompute_ref=True), beside)
    assert "the log-probs of 21" in capsys.readouterr().err
    monkeypatch.undo()
    run(kept, tmp_path, "longer", precompute_ref=True, max_steps=6)
    assert "computing the log-probs of 2 of 23" in capsys.readouterr().err


@pytest.mark.parametrize(("kind", "before"), [("lora", False), ("full", False), ("full", True)])
def test_a_run_goes_on_with_its_reference_computed_before_or_no_longer(kind, before, stages, tmp_path):
    settings = {**stages["dpo"], "save_strategy": "steps", "save_steps": 2, "max_steps": 4, "precompute_ref": before}
    if kind == "full":
        settings |= {"finetuning_type": "full", "learning_rate": 1e-3}
        settings.pop("lora_target")
    straight = run(settings, tmp_path, "straight")
    shutil.copytree(straight / "checkpoint-2", tmp_path / "turned" / "checkpoint-2")
    turned = run(settings, tmp_path, "turned", precompute_ref=not before)
    assert losses_of(turned) == pytest.approx(losses_of(straight)[2:], abs=1e-5) and len(set(losses_of(turned))) == 2
    assert largest_difference(weights_of(turned), weights_of(straight)) < 2e-5


def test_another_model_s_numbers_are_not_taken(stages, tmp_path, tiny_model_dir, capsys):
    import torch
    from transformers import LlamaForCausalLM

    kept = {**stages["dpo"], "precompute_ref": True, "max_steps": 2}
    run(kept, tmp_path, "base")
    shutil.copytree(tiny_model_dir, tmp_path / "other")
    model = LlamaForCausalLM.from_pretrained(tmp_path / "other")
    with torch.no_grad():
        model.lm_head.weight.add_(0.05 * torch.randn_like(model.lm_head.weight))
    model.save_pretrained(tmp_path / "other")
    capsys.readouterr()
    named = run(kept, tmp_path, "named", ref_model=str(tmp_path / "other"))
    assert "computing the log-probs of 8 of 8" in capsys.readouterr().err
    beside = run(kept, tmp_path, "beside", ref_model=str(tmp_path / "other"), precompute_ref=False)
    require_equal(named, beside)
    assert abs(lines_of(named)[0]["rewards/margins"]) > 1e-3, "the reference is not the model before it learns"


def test_every_weight_learns_against_a_frozen_copy(stages, tmp_path):
    settings = {**stages["dpo"], "finetuning_type": "full", "learning_rate": 1e-3}
    settings.pop("lora_target")
    beside = run(settings, tmp_path, "beside")
    assert lines_of(beside)[0]["rewards/margins"] == pytest.approx(0, abs=1e-6) and lines_of(beside)[-1]["rewards/margins"] > 0
    before = run(settings, tmp_path, "before", precompute_ref=True)
    require_equal(before, beside)
    plans = [json.loads((folder / "plan.json").read_text()) for folder in (beside, before)]
    assert [plan["memory"]["reference"] for plan in plans] == [4 * plans[0]["num_weights"], 0]


@pytest.mark.parametrize("stage", ["dpo", "kto"])
def test_the_router_loss_of_experts_is_learned_in_every_layout(stage, stages, tiny_tokenizer, tmp_path):
    settings = {**stages[stage], "model_name_or_path": str(tmp_path / "experts"), "finetuning_type": "full", "max_steps": 2}
    settings.pop("lora_target")
    tiny("mixtral", vocab_size=len(tiny_tokenizer), max_position_embeddings=512).save_pretrained(tmp_path / "experts")
    tiny_tokenizer.save_pretrained(tmp_path / "experts")
    whole = run(settings, tmp_path, "whole", moe_aux_loss_coef=0.5)
    split = run(settings, tmp_path, "split", moe_aux_loss_coef=0.5, per_device_train_batch_size=1, gradient_accumulation_steps=4)
    assert losses_of(split) == pytest.approx(losses_of(whole), abs=1e-5)
    without = run(settings, tmp_path, "without", moe_aux_loss_coef=0)
    assert losses_of(whole)[0] > losses_of(without)[0] + 0.9, "0.5 times a loss of at least 2"


def test_answers_of_one_kind_are_refused_and_found_by_the_check(stages, tmp_path, capsys):
    rows = Path(stages["kto"]["dataset_dir"]) / "rated.json"
    rows.write_text(json.dumps([{**row, "good": True} for row in json.loads(rows.read_text())]))
    with pytest.raises(TrainingError, match="all 23 answers are good: KTO learns from how they differ from bad ones"):
        run(stages["kto"], tmp_path, "one")
    assert check.main([str(tmp_path / "one.yaml")]) != 0
    assert "fault: all 23 answers are good" in capsys.readouterr().out


REAL = {
    "dpo": ("dpo_en_demo", {"pref_beta": 0.1}),
    "orpo": ("dpo_en_demo", {"pref_loss": "orpo"}),
    "kto": ("kto_en_demo", {"pref_beta": 0.1}),
}


@pytest.mark.parametrize("method", REAL)
def test_real_answers_are_told_apart(method, tiny_run, shared, tmp_path):
    """16 rows seen often: the model learns them by heart, so that good answers come out above bad ones."""
    dataset, more = REAL[method]
    settings = {
        **tiny_run, "stage": "kto" if method == "kto" else "dpo", "dataset": dataset, "dataset_dir": str(shared / "llamafactory"),
        "max_samples": 16, "cutoff_len": 96, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1,
        "max_steps": 30, "finetuning_type": "full", "learning_rate": 3e-3, "lr_scheduler_type": "constant", "warmup_steps": 0,
        **more,
    }  # fmt: skip
    settings.pop("lora_target")
    told = lines_of(run(settings, tmp_path, "real"))
    first, last = told[:2], told[-2:]
    margins = [np.mean([line["rewards/margins"] for line in part]) for part in (first, last)]
    assert margins[1] > margins[0] + (0.02 if method == "orpo" else 0.1), "orpo's rewards are means over tokens"
    if method != "kto":
        assert np.mean([line["rewards/accuracies"] for line in last]) >= 0.9
