"""A reward model by the command line: it learns a rule, is kept and continued whole, scores, is exported, and never answers.

Does not know the loss's formula; tests/objectives does.
"""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hone import cli
from hone.chat.message import Conversation, message
from hone.commands import train
from hone.config import load
from hone.errors import ModelError
from hone.inference.score import Scorer, build_scorer
from hone.training.planning.choose import choose
from hone.training.planning.draft import draft_plan, gather_material, lay_steps
from tests import worlds
from tests.runs import WORDS, largest_difference, losses_of, weights_of, write_run

POLITE, RUDE = ("Gladly", "Please", "Thanks"), ("Whatever", "Nonsense", "Silence")
HEAD = "value_head.safetensors"


def polite_pairs(count: int, seed: int) -> list[dict[str, str]]:
    """Two answers of the same length; the one with a polite word somewhere in it is chosen."""
    chance, rows = random.Random(seed), []
    for number in range(count):
        sides = {}
        for name, choice in (("chosen", POLITE), ("rejected", RUDE)):
            words = chance.choices(WORDS, k=5)
            words.insert(chance.randrange(5), chance.choice(choice))
            sides[name] = " ".join(words)
        rows.append({"instruction": f"Say {number}: {' '.join(chance.choices(WORDS, k=4))}", "input": "", **sides})
    return rows


@pytest.fixture
def reward_run(tiny_run) -> dict[str, Any]:
    """Flat settings of a run over 23 pairs, with 40 to evaluate."""
    folder = Path(tiny_run["dataset_dir"])
    entry = {"ranking": True, "columns": {"prompt": "instruction", "query": "input", "chosen": "chosen", "rejected": "rejected"}}
    sets = {"pairs": polite_pairs(23, 1), "many": polite_pairs(160, 2), "held": polite_pairs(40, 3)}
    for name, rows in sets.items():
        (folder / f"{name}.json").write_text(json.dumps(rows))
    info = {name: {"file_name": f"{name}.json", **entry} for name in sets}
    (folder / "dataset_info.json").write_text(json.dumps({"rows": {"file_name": "rows.json"}, **info}))
    return {**tiny_run, "stage": "rm", "dataset": "pairs"}


def start(settings: dict[str, Any], tmp_path: Path, **changes: object) -> Path:
    """Train with `changes`; the folder of the model."""
    settings = {**settings, **changes}
    assert train.main([str(write_run(settings, tmp_path / "run.yaml"))]) == 0
    return Path(settings["output_dir"])


def history(folder: Path, key: str) -> list[float]:
    log = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [line[key] for line in log if key in line]


KINDS: dict[str, dict[str, Any]] = {
    "full": {"finetuning_type": "full"},
    "freeze": {"finetuning_type": "freeze", "freeze_trainable_layers": 2},
    "lora": {"finetuning_type": "lora"},
    "qlora": {"finetuning_type": "lora", "quantization_bit": 4},
}
LORA = ("lora", "qlora")


def of_kind(settings: dict[str, Any], kind: str) -> dict[str, Any]:
    """The settings for a finetuning_type, without lora's own keys where it is another."""
    lora = {key: value for key, value in settings.items() if kind in LORA or not key.startswith("lora")}
    return {**lora, **KINDS[kind]}


@pytest.mark.parametrize("kind", ["full", "freeze", "lora"])
def test_it_learns_what_politeness_is(kind, reward_run, tmp_path):
    changes = {"dataset": "many", "eval_dataset": "held", "eval_strategy": "steps", "eval_steps": 40, "eval_on_start": True}
    changes |= {"max_steps": 40, "per_device_train_batch_size": 16, "gradient_accumulation_steps": 1, "learning_rate": 0.005}
    folder = start(of_kind(reward_run, kind), tmp_path, **changes, disable_shuffling=False)
    accuracy, margin = history(folder, "eval_accuracy"), history(folder, "eval_margin")
    assert abs(accuracy[0] - 0.5) < 0.25
    assert accuracy[-1] > 0.9 and margin[-1] > 1
    chosen, rejected = history(folder, "eval_rewards/chosen"), history(folder, "eval_rewards/rejected")
    assert chosen[-1] - rejected[-1] == pytest.approx(margin[-1], abs=1e-4)
    assert set(load_file(folder / HEAD)) == {"v_head.summary.weight", "v_head.summary.bias"}
    named = "adapter_name_or_path" if kind == "lora" else "model_name_or_path"
    again = {**of_kind(reward_run, kind), "do_train": False, "do_eval": True, "eval_dataset": "held", named: str(folder)}
    judged = json.loads((start(again, tmp_path, output_dir=str(tmp_path / "judged")) / "eval_results.json").read_text())
    assert judged["eval_accuracy"] == accuracy[-1]
    assert judged["eval_margin"] == pytest.approx(margin[-1], abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_is_the_straight_one(kind, reward_run, tmp_path):
    settings = {**of_kind(reward_run, kind), "save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    straight = start(settings, tmp_path, output_dir=str(tmp_path / "straight"))
    shutil.copytree(straight / "checkpoint-2", tmp_path / "resumed" / "checkpoint-2")
    resumed = start(settings, tmp_path, output_dir=str(tmp_path / "resumed"))
    assert (resumed / "checkpoint-2" / HEAD).is_file()
    assert largest_difference(weights_of(resumed), weights_of(straight)) == 0.0
    before = load_file(straight / "checkpoint-2" / HEAD)
    assert largest_difference(before, load_file(straight / HEAD)) > 0


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_training_goes_on_from_a_reward_model(kind, reward_run, tmp_path):
    settings = of_kind(reward_run, kind)
    first = start(settings, tmp_path, max_steps=3, output_dir=str(tmp_path / "first"))
    named = "adapter_name_or_path" if kind == "lora" else "model_name_or_path"
    # A rate too small to move anything: what is written is what was read.
    second = start(
        settings,
        tmp_path,
        max_steps=1,
        warmup_steps=0,
        learning_rate=1e-20,
        output_dir=str(tmp_path / "second"),
        **{named: str(first)},
    )
    assert largest_difference(load_file(first / HEAD), load_file(second / HEAD)) == 0.0


def test_micro_batches_and_packing_change_nothing(reward_run, tmp_path):
    folders = []
    for micro in (4, 1):
        changes = {"per_device_train_batch_size": micro, "gradient_accumulation_steps": 4 // micro, "max_steps": 4}
        folders.append(start(reward_run, tmp_path, output_dir=str(tmp_path / f"of_{micro}"), **changes))
    one, other = folders
    assert losses_of(one) == pytest.approx(losses_of(other), abs=1e-5)
    for name in ("accuracy", "margin", "rewards/chosen", "rewards/rejected"):
        assert history(one, name) == pytest.approx(history(other, name), abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_two_processes_learn_what_one_does(kind, reward_run, tmp_path):
    """Every weight has a gradient on both: the output head, which nothing reads, rests."""
    settings = of_kind(reward_run, kind)
    alone = start(settings, tmp_path, output_dir=str(tmp_path / "alone"))
    two = worlds.on_two({**settings, "gradient_accumulation_steps": 1}, tmp_path / "two")
    assert losses_of(two) == pytest.approx(losses_of(alone), abs=1e-5)
    assert largest_difference(weights_of(two), weights_of(alone)) < 2e-5


def scorer_of(model: object, adapter: object = None) -> Scorer:
    """The scorer of a folder, or of a base and its adapter."""
    named = [f"adapter_name_or_path={adapter}"] if adapter else []
    run = load([f"model_name_or_path={model}", *named], "chat")
    return build_scorer(run.model, run.chat, run.adapter, dtype="float32")


def asked(words: str) -> Conversation:
    return Conversation((message("user", "Say it"), message("assistant", words)))


def test_it_scores_alike_alone_and_among_others_and_after_export(reward_run, tmp_path, capsys):
    base = reward_run["model_name_or_path"]
    adapter = start(reward_run, tmp_path, max_steps=4)
    talks = [asked("Gladly, the fox"), asked("Silence"), asked("the lazy dog near Paris and five rivers of rain")]
    scorer = scorer_of(base, adapter)
    scores = scorer.score(talks)
    assert scores == pytest.approx([scorer.score([talk])[0] for talk in talks], abs=1e-5)
    assert len(set(scores)) == 3
    merged = tmp_path / "merged"
    arguments = [f"model_name_or_path={base}", f"adapter_name_or_path={adapter}", f"export_dir={merged}", "infer_dtype=float32"]
    assert cli.main(["export", *arguments]) == 0
    report = json.loads((merged / "export_report.json").read_text())
    assert report["parity"]["passed"] and report["parity"]["score_difference"] < 1e-4
    assert "scores" in capsys.readouterr().out
    assert scorer_of(merged).score(talks) == pytest.approx(scores, abs=1e-4)


def test_it_does_not_chat_and_another_model_does_not_score(reward_run, tmp_path, capsys):
    base, adapter = reward_run["model_name_or_path"], start(reward_run, tmp_path, max_steps=1, warmup_steps=0)
    assert cli.main(["chat", f"model_name_or_path={base}", f"adapter_name_or_path={adapter}", "--ask", "Hello"]) == 2
    assert "is a reward model (stage: rm)" in capsys.readouterr().err
    judged = write_run({**reward_run, "do_train": False, "do_eval": True, "eval_dataset": "held"}, tmp_path / "judged.yaml")
    assert cli.main(["train", str(judged)]) == 2
    assert f"there is no {HEAD} to evaluate" in capsys.readouterr().err
    with pytest.raises(ModelError, match="is no reward model"):
        scorer_of(base)


def test_a_reward_model_of_llamafactory_is_read(reward_run, tmp_path, capsys):
    """Its files are the same; the metadata say nothing of what the head was learned for."""
    folder = start(of_kind(reward_run, "full"), tmp_path, max_steps=1, warmup_steps=0)
    save_file(load_file(folder / HEAD), folder / HEAD, metadata={"format": "pt"})
    scores = scorer_of(folder).score([asked("Gladly")])
    torch.save(load_file(folder / HEAD), folder / "value_head.bin")
    (folder / HEAD).unlink()
    assert scorer_of(folder).score([asked("Gladly")]) == scores
    assert cli.main(["chat", f"model_name_or_path={folder}", "max_new_tokens=1", "--ask", "Hello"]) == 0
    assert "a reward model's answers mean nothing" in capsys.readouterr().err


def test_the_plan_counts_no_logits_and_no_output_head(reward_run, tmp_path):
    run = load([str(write_run(of_kind(reward_run, "full"), tmp_path / "run.yaml"))], "train")
    material = gather_material(run)
    choice = choose(run, material.objective, material.tokens, device=torch.device("cpu"), world=1)
    plan = draft_plan(run, material, lay_steps(run, material, 1), choice, device=torch.device("cpu"), world=1)
    vocabulary, width = 420, 32
    assert plan.memory.logits == 0
    assert plan.num_weights - plan.num_trained == vocabulary * width
    assert plan.unit == "pairs" and plan.num_rows == 23


def test_a_head_that_nothing_reads_is_not_trained_by_name(reward_run, tmp_path, capsys):
    path = write_run({**reward_run, "additional_target": "lm_head"}, tmp_path / "run.yaml")
    assert cli.main(["train", str(path)]) == 2
    assert "lm_head has no effect in this stage" in capsys.readouterr().err


def test_real_pairs_are_learned_and_others_are_judged(shared, tiny_run, tmp_path):
    """Pairs of two public sets, in two shapes: those that are learned come to stand in the right order.

    Those held back are judged before and after; a random model of 40,000 weights learns nothing of them (docs/scoring.md has what
    a small one that can answer does).
    """
    folder = Path(tiny_run["dataset_dir"])
    shutil.copy(shared / "llamafactory" / "dpo_en_demo.json", folder)
    shutil.copy(shared / "preference" / "torchtune_stack_exchange_paired_tiny.json", folder)
    demo = {"file_name": "dpo_en_demo.json", "ranking": True, "formatting": "sharegpt"}
    demo["columns"] = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"}
    stack = {"file_name": "torchtune_stack_exchange_paired_tiny.json", "ranking": True}
    stack["columns"] = {"prompt": "question", "chosen": "response_j", "rejected": "response_k"}
    (folder / "dataset_info.json").write_text(json.dumps({"demo": demo, "stack": stack}))
    changes = {"dataset": "demo,stack", "max_samples": 10, "max_steps": 24, "cutoff_len": 64, "per_device_train_batch_size": 8}
    changes |= {
        "gradient_accumulation_steps": 1,
        "val_size": 4,
        "eval_on_start": True,
        "eval_strategy": "steps",
        "eval_steps": 24,
    }
    found = start({**of_kind(tiny_run, "full"), "stage": "rm", **changes}, tmp_path)
    accuracy, losses, margin = (history(found, name) for name in ("accuracy", "loss", "margin"))
    assert np.mean(accuracy[-4:]) > 0.85 > np.mean(accuracy[:4]) and margin[-1] > margin[0] + 0.5
    assert losses[-1] < losses[0] / 2
    judged = {name: history(found, f"eval_{name}") for name in ("accuracy", "margin", "loss")}
    assert all(len(told) == 2 for told in judged.values()) and judged["margin"][0] != judged["margin"][1]
    assert {number * 4 for number in judged["accuracy"]} <= {0, 1, 2, 3, 4}, "of the four rows"
