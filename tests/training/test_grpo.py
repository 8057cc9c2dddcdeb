"""Whole runs with stage: grpo: a tiny model learns what is rewarded, and accumulation, processes and a restart change nothing.

Tolerances: fp32 sums in another order; 1e-5 in losses and rewards, 2e-5 in weights after a few steps.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from hone import cli
from tests import worlds
from tests.runs import largest_difference, weights_of, write_run

REWARDS = """
def even(completion_ids, **columns):
    return [sum(token % 2 == 0 for token in ids) / len(ids) for ids in completion_ids]

def vowels(completions, **columns):
    return [sum(letter in "aeiou" for letter in text) / max(1, len(text)) for text in completions]

def first_letter(completions, answers, **columns):
    return [float(text[:1] == answer[:1]) for text, answer in zip(completions, answers)]

def nan(completions, **columns):
    return [float("nan")] * len(completions)

def hanging(completions, **columns):
    while True:
        pass
"""


@pytest.fixture
def grpo(tiny_run: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """Settings of a run on a tiny model: two prompts of four answers of at most eight tokens a step."""
    file = tmp_path / "rewards.py"
    file.write_text(REWARDS)
    return tiny_run | {
        "stage": "grpo",
        "reward_funcs": f"{file}:vowels",
        "num_generations": 4,
        "max_new_tokens": 8,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "max_steps": 4,
        "finetuning_type": "full",
        "lora_target": None,
    }


def train(settings: dict[str, Any], path: Path, world: int = 1) -> str:
    """Run it in processes of its own and give what they said."""
    return worlds.train(write_run(_without_none(settings), path), world)


def history(folder: Path, name: str) -> list[float]:
    """A logged figure, in order."""
    records = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [record[name] for record in records if name in record]


def test_a_tiny_model_learns_what_is_rewarded(grpo, tmp_path):
    """The share of even tokens in an answer: half for random weights, nearly all after 30 steps."""
    settings = grpo | {"reward_funcs": f"{tmp_path / 'rewards.py'}:even", "max_steps": 30, "lr_scheduler_type": "constant"}
    settings |= {"warmup_steps": None, "per_device_train_batch_size": 16, "num_generations": 8, "learning_rate": 0.01}
    assert cli.main(["train", str(write_run(_without_none(settings), tmp_path / "r.yaml"))]) == 0
    rewards = history(Path(grpo["output_dir"]), "reward")
    assert sum(rewards[:5]) / 5 < 0.6
    assert sum(rewards[-5:]) / 5 > 0.9


@pytest.mark.parametrize(
    "variant",
    [
        {"loss_type": "grpo", "beta": 0.04},
        {"loss_type": "dr_grpo", "scale_rewards": "none"},
        {"epsilon_high": 0.28, "filter_groups": True, "mask_truncated_completions": True},
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "num_iterations": 2},
        {"advantage_estimator": "rloo", "temperature": 0.7, "top_p": 0.9},
    ],
    ids=["grpo", "dr_grpo", "dapo", "gspo", "rloo"],
)
def test_accumulation_changes_nothing(variant, grpo, tmp_path):
    """The step's eight answers at once, in twos, and one by one."""
    folders = []
    for micro in (8, 2, 1):
        folders.append(tmp_path / f"micro{micro}")
        batch = {"per_device_train_batch_size": micro, "gradient_accumulation_steps": 8 // micro}
        settings = _without_none(grpo | variant | batch | {"output_dir": str(folders[-1])})
        assert cli.main(["train", str(write_run(settings, tmp_path / "r.yaml"))]) == 0
    for name in ("loss", "reward", "grad_norm"):
        for other in folders[1:]:
            assert history(other, name) == pytest.approx(history(folders[0], name), abs=2e-5)
    assert max(largest_difference(weights_of(other), weights_of(folders[0])) for other in folders[1:]) < 2e-5


def _without_none(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if value is not None}


@pytest.fixture
def dynamic(grpo, tmp_path) -> dict[str, Any]:
    """Groups of two answers, of which most have one reward: each answer is good by an even chance, by its first token alone."""
    (tmp_path / "odd.py").write_text("def odd(completion_ids, **columns):\n    return [ids[0] % 2 for ids in completion_ids]\n")
    return _without_none(
        grpo
        | {"reward_funcs": f"{tmp_path / 'odd.py'}:odd", "dynamic_sampling": True, "dynamic_sampling_max_draws": 4}
        | {"num_generations": 2, "max_new_tokens": 2, "max_steps": 6, "disable_shuffling": False}
    )


DYNAMIC = ("loss", "reward", "grad_norm", "dynamic_sampling/groups_drawn", "dynamic_sampling/groups_kept")


def test_dynamic_sampling_fills_the_step(dynamic, tmp_path, capsys):
    """Four groups a step, whatever the layout; a bound of two drawings is reached now and then, and told."""
    folders = [tmp_path / "whole", tmp_path / "split", tmp_path / "bound"]
    variants: list[dict[str, Any]] = [{}, {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}]
    for folder, variant in zip(folders, [*variants, {"dynamic_sampling_max_draws": 2}], strict=True):
        capsys.readouterr()
        settings = dynamic | variant | {"output_dir": str(folder)}
        assert cli.main(["train", str(write_run(settings, tmp_path / "r.yaml"))]) == 0
    for name in DYNAMIC:
        assert history(folders[1], name) == pytest.approx(history(folders[0], name), abs=2e-5)
    assert largest_difference(weights_of(folders[1]), weights_of(folders[0])) < 2e-5
    kept, drawn = (history(folders[0], f"dynamic_sampling/groups_{name}") for name in ("kept", "drawn"))
    assert kept == [4] * 6 and max(drawn) > 4 and all(number % 4 == 0 for number in drawn)
    few = [number for number in history(folders[2], "dynamic_sampling/groups_kept") if number < 4]
    assert len(few) == capsys.readouterr().err.count("dynamic_sampling: after 2 drawings of 4 prompts the answers to") > 0


@pytest.mark.parametrize("uses", [1, 2], ids=["used once", "between two uses"])
def test_a_continued_run_takes_up_its_place_in_the_stream_of_prompts(uses, dynamic, tmp_path):
    settings = dynamic | {"num_iterations": uses, "save_strategy": "steps", "save_steps": 3}
    straight, continued = tmp_path / "straight", tmp_path / "continued"
    assert cli.main(["train", str(write_run(settings | {"output_dir": str(straight)}, tmp_path / "a.yaml"))]) == 0
    shutil.copytree(straight / "checkpoint-3", continued / "checkpoint-3")
    assert cli.main(["train", str(write_run(settings | {"output_dir": str(continued)}, tmp_path / "b.yaml"))]) == 0
    for name in DYNAMIC:
        assert history(continued, name) == history(straight, name)
    assert largest_difference(weights_of(continued), weights_of(straight)) == 0


@pytest.mark.slow
def test_dynamic_sampling_is_the_same_on_two_processes(dynamic, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    assert cli.main(["train", str(write_run(dynamic | {"output_dir": str(one)}, tmp_path / "one.yaml"))]) == 0
    train(dynamic | {"gradient_accumulation_steps": 1, "output_dir": str(two)}, tmp_path / "two.yaml", world=2)
    for name in DYNAMIC:
        assert history(two, name) == pytest.approx(history(one, name), abs=1e-5)
    assert largest_difference(weights_of(two), weights_of(one)) < 2e-5


@pytest.mark.slow
def test_two_processes_equal_one(grpo, tmp_path):
    """A step is one prompt of four answers: its group lies on both."""
    settings = grpo | {"per_device_train_batch_size": 2, "loss_type": "grpo", "filter_groups": True}
    one, two = tmp_path / "one", tmp_path / "two"
    train(settings | {"gradient_accumulation_steps": 2, "output_dir": str(one)}, tmp_path / "one.yaml")
    train(settings | {"gradient_accumulation_steps": 1, "output_dir": str(two)}, tmp_path / "two.yaml", world=2)
    for name in ("loss", "reward", "reward_std", "completions/mean_length", "entropy"):
        assert history(two, name) == pytest.approx(history(one, name), abs=1e-5)
    assert largest_difference(weights_of(two), weights_of(one)) < 2e-5


@pytest.mark.parametrize("at", [3, 4], ids=["between two uses of the same answers", "before new answers"])
def test_a_continued_run_is_the_same_run(at, grpo, tmp_path):
    settings = _without_none(grpo | {"num_iterations": 2, "max_steps": 6, "save_strategy": "steps", "save_steps": 1})
    straight, continued = tmp_path / "straight", tmp_path / "continued"
    assert cli.main(["train", str(write_run(settings | {"output_dir": str(straight)}, tmp_path / "a.yaml"))]) == 0
    shutil.copytree(straight / f"checkpoint-{at}", continued / f"checkpoint-{at}")
    assert cli.main(["train", str(write_run(settings | {"output_dir": str(continued)}, tmp_path / "b.yaml"))]) == 0
    for name in ("loss", "reward", "grad_norm"):
        assert history(continued, name) == history(straight, name)
    assert largest_difference(weights_of(continued), weights_of(straight)) == 0


def test_lora_and_a_divergence_from_the_base(grpo, tmp_path):
    """The adapter begins as nothing: no divergence at first, some later."""
    settings = grpo | {"finetuning_type": "lora", "lora_target": "all", "beta": 0.1, "learning_rate": 0.05}
    assert cli.main(["train", str(write_run(settings, tmp_path / "r.yaml"))]) == 0
    found = history(Path(grpo["output_dir"]), "kl")
    assert found[0] == pytest.approx(0, abs=1e-6) and found[-1] > 1e-3


def test_an_evaluation_draws_answers_and_the_best_is_kept(grpo, tmp_path):
    settings = grpo | {"val_size": 5, "eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True}
    settings |= {"save_strategy": "steps", "save_steps": 2, "eval_on_start": True}
    assert cli.main(["train", str(write_run(_without_none(settings), tmp_path / "r.yaml"))]) == 0
    folder = Path(grpo["output_dir"])
    assert len(history(folder, "eval_reward")) >= 3 and len(history(folder, "eval_completions/mean_length")) >= 3
    state = json.loads((folder / "trainer_state.json").read_text())
    assert state["best_metric"] == max(history(folder, "eval_reward")[1:3])


@pytest.mark.parametrize(
    ("reward", "said", "code"),
    [
        ("nan", r"reward function .*rewards.py:nan returned nan for rows row \d+, which was answered", 1),
        ("hanging", r"rewards.py:hanging of rows row \d+, rows row \d+ did not end within 1 seconds", 1),
        ("missing", r"rewards.py:missing cannot be loaded: AttributeError", 2),
    ],
)
def test_a_reward_that_fails_ends_the_run_with_its_name(reward, said, code, grpo, tmp_path, capsys):
    settings = _without_none(grpo | {"reward_funcs": f"{tmp_path / 'rewards.py'}:{reward}", "reward_timeout": 1})
    assert cli.main(["train", str(write_run(settings, tmp_path / "r.yaml"))]) == code
    import re

    assert re.search(said, capsys.readouterr().err)


def test_a_step_must_hold_whole_groups(grpo, tmp_path, capsys):
    settings = _without_none(grpo | {"per_device_train_batch_size": 3})
    assert cli.main(["train", str(write_run(settings, tmp_path / "r.yaml"))]) != 0
    assert "6 answers" in (said := capsys.readouterr().err) and "a multiple of num_generations: 4" in said


def test_dynamic_sampling_needs_a_step_s_worth_of_prompts(dynamic, tmp_path, capsys):
    assert cli.main(["train", str(write_run(dynamic | {"max_samples": 3}, tmp_path / "r.yaml"))]) != 0
    assert "are 4 prompts, and dynamic_sampling needs that many; the data hold 3" in capsys.readouterr().err


def test_gsm8k_rows_pass_through(shared, grpo, tmp_path):
    """Question and worked answer as they are published; a random model's answers have a number now and then."""
    info = {
        "gsm8k": {
            "file_name": str(shared / "gsm8k" / "train_rows_0-999.jsonl"),
            "columns": {"prompt": "question", "response": "answer"},
        }
    }
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps(info))
    settings = grpo | {"dataset": "gsm8k", "max_samples": 40, "cutoff_len": 400, "reward_funcs": "numeric,length", "max_steps": 2}
    assert cli.main(["train", str(write_run(_without_none(settings), tmp_path / "r.yaml"))]) == 0
    folder = Path(grpo["output_dir"])
    assert len(history(folder, "rewards/numeric/mean")) == 2 and len(history(folder, "rewards/length/mean")) == 2


def test_a_reward_that_compares_wants_answers_to_compare_with(grpo, tmp_path, capsys):
    rows = [{"instruction": f"Say {number}", "output": "no digit"} for number in range(4)]
    (tmp_path / "data" / "rows.json").write_text(json.dumps(rows))
    file = write_run(_without_none(grpo | {"reward_funcs": "length,numeric"}), tmp_path / "r.yaml")
    assert cli.main(["train", str(file)]) == 2
    said = capsys.readouterr().err
    assert "reward_funcs: numeric compares with what the rows answer, and of 4 rows none has a number in its answer" in said
    file = write_run(_without_none(grpo | {"reward_funcs": "exact_match"}), tmp_path / "r.yaml")
    assert cli.main(["check", str(file)]) == 0, "words are enough for it"


def test_check_finds_a_reward_that_is_not_there(grpo, tmp_path, capsys):
    settings = _without_none(grpo | {"reward_funcs": f"{tmp_path / 'rewards.py'}:missing"})
    assert cli.main(["check", str(write_run(settings, tmp_path / "r.yaml"))]) != 0
    said = capsys.readouterr()
    assert "rewards.py:missing cannot be loaded: AttributeError" in said.out + said.err


@pytest.mark.slow
def test_a_reward_that_fails_on_one_process_ends_both(grpo, tmp_path):
    (tmp_path / "rewards.py").write_text(
        "import os\n\n\ndef one(completions, **columns):\n    return [1 / (os.environ['RANK'] == '0') for _ in completions]\n"
    )
    settings = grpo | {"per_device_train_batch_size": 2, "reward_funcs": f"{tmp_path / 'rewards.py'}:one"}
    file = write_run(_without_none(settings | {"gradient_accumulation_steps": 1}), tmp_path / "r.yaml")
    done = worlds.command(file, 2)
    assert done.returncode == 1 and done.stderr.count("one failed on rows row") == 1, done.stderr
    assert "ZeroDivisionError" in done.stderr
