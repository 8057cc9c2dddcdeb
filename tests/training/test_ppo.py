"""Whole runs with stage: ppo: a tiny model learns what each kind of reward model likes; layout and restarts change nothing.

Tolerances: fp32 sums in another order; 2e-5 in losses and weights after a few steps.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hone import cli
from hone.chat.encoded import IGNORE, Encoded
from hone.config import load
from hone.data.batch import pack
from hone.inference.score import build_scorer
from hone.objectives.ppo import Ppo
from tests import worlds
from tests.desk import Desk
from tests.runs import largest_difference, weights_of, write_run
from tests.scoring import write_reward_adapter, write_value_head


@pytest.fixture(scope="module")
def reward_model(tiny_model_dir: Path, tmp_path_factory) -> Path:
    """The tiny model with a value head that likes some conversations' ends more than others."""
    folder = tmp_path_factory.mktemp("reward") / "whole"
    shutil.copytree(tiny_model_dir, folder)
    write_value_head(folder, 32, 0)
    return folder


@pytest.fixture(scope="module")
def reward_adapter(tiny_model_dir: Path, tmp_path_factory) -> Path:
    """An adapter of the tiny model with a value head."""
    return write_reward_adapter(tiny_model_dir, tmp_path_factory.mktemp("reward") / "adapter")


@pytest.fixture
def ppo(tiny_run: dict[str, Any], reward_model: Path) -> dict[str, Any]:
    """Settings of a run of every weight of a tiny model: eight answers of at most six tokens a step, each learned from twice."""
    return _without_none(
        tiny_run
        | {
            "stage": "ppo",
            "reward_model": str(reward_model),
            "reward_model_type": "full",
            "max_new_tokens": 6,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 2,
            "ppo_epochs": 2,
            "max_steps": 4,
            "finetuning_type": "full",
            "lora_target": None,
            "dataloader_drop_last": True,
        }
    )


def _without_none(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if value is not None}


LEARNS = {
    "max_steps": 80,
    "ppo_epochs": 4,
    "learning_rate": 0.01,
    "per_device_train_batch_size": 16,
    "gradient_accumulation_steps": 1,
    "lr_scheduler_type": "constant",
    "warmup_steps": None,
    "ppo_kl_coef": 0.01,
    "ppo_buffer_size": 1,
}


def train(settings: dict[str, Any], tmp_path: Path, code: int = 0) -> Path:
    """Run it in this process; its folder."""
    assert cli.main(["train", str(write_run(_without_none(settings), tmp_path / "run.yaml"))]) == code
    return Path(settings["output_dir"])


def history(folder: Path, name: str) -> list[float]:
    """A logged figure, in order."""
    records = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [record[name] for record in records if name in record]


def test_a_tiny_model_learns_what_a_whole_reward_model_likes(ppo, tmp_path):
    rewards = history(train(ppo | LEARNS, tmp_path), "reward")
    print(rewards[::4])
    assert sum(rewards[-6:]) / 6 > sum(rewards[:2]) / 2 + 1


def test_a_tiny_model_learns_what_a_reward_adapter_likes(ppo, reward_adapter, tmp_path):
    lora = {"finetuning_type": "lora", "lora_target": "all", "reward_model": str(reward_adapter), "reward_model_type": "lora"}
    folder = train(ppo | LEARNS | lora | {"additional_target": "lm_head"}, tmp_path)
    rewards = history(folder, "reward")
    print(rewards[::4])
    assert sum(rewards[-6:]) / 6 > sum(rewards[:2]) / 2 + 1
    assert {"adapter_model.safetensors", "value_head.safetensors"} <= {path.name for path in folder.iterdir()}
    assert not (folder / "reward").exists()


@pytest.fixture
def vowels() -> Iterator[Desk]:
    """A server that scores the share of vowels in an answer."""

    def reply(_: int, asked: Any) -> tuple[int, bytes]:
        answers = [text.rpartition("assistant\n")[2] for text in asked["messages"]]
        scores = [sum(letter in "aeiou" for letter in answer) / max(1, len(answer)) for answer in answers]
        return 200, json.dumps({"scores": scores}).encode()

    desk = Desk(reply)
    yield desk
    desk.close()


def test_a_tiny_model_learns_what_a_server_likes(ppo, vowels, tmp_path):
    served = {"reward_model": vowels.url, "reward_model_type": "api", "ppo_score_norm": True}
    rewards = history(train(ppo | LEARNS | served, tmp_path), "reward")
    print(rewards[::4])
    assert sum(rewards[:2]) / 2 < 0.2 < 0.4 < sum(rewards[-6:]) / 6


@pytest.fixture
def variant(request, variant_of_adapter) -> dict[str, Any]:
    """Settings by name: how things are laid out is tried with each."""
    return {
        "whole": {"ppo_whiten_rewards": True, "ppo_score_norm": True, "ppo_kl_horizon": 20},
        "buffer": {"ppo_buffer_size": 2, "gradient_accumulation_steps": 1},
        "adapter": variant_of_adapter | {"temperature": 0.8},
    }[request.param]


@pytest.mark.parametrize("variant", ["whole", "buffer", "adapter"], indirect=True)
def test_accumulation_changes_nothing(variant, ppo, tmp_path):
    """The same answers in micro-batches of four, two and one."""
    settings, folders = ppo | variant, []
    accumulation = settings["gradient_accumulation_steps"]
    for micro in (4, 2, 1):
        batch = {"per_device_train_batch_size": micro, "gradient_accumulation_steps": accumulation * 4 // micro}
        folders.append(train(settings | batch | {"output_dir": str(tmp_path / f"micro{micro}")}, tmp_path))
    for name in ("loss", "reward", "grad_norm", "objective/kl", "objective/kl_coef", "loss/value_avg", "val/ratio"):
        assert len(history(folders[0], name)) == 4
        for other in folders[1:]:
            assert history(other, name) == pytest.approx(history(folders[0], name), abs=2e-5, rel=2e-5)
    assert max(largest_difference(weights_of(other), weights_of(folders[0])) for other in folders[1:]) < 5e-5


def test_a_buffer_is_split_anew_in_every_pass(ppo, tmp_path):
    """Four steps learn from one drawing of sixteen answers, by eights: the rewards are of all, the losses of each half."""
    folder = train(ppo | {"ppo_buffer_size": 2, "max_steps": 8, "logging_steps": 1}, tmp_path)
    rewards, values = history(folder, "reward"), history(folder, "val/error")
    assert len(set(rewards[:4])) == 1 and len(set(rewards[4:])) == 1 and rewards[0] != rewards[4]
    assert len(set(values)) == 8
    assert history(folder, "val/ratio")[0] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("at", [3, 4], ids=["in the midst of a drawing", "before a drawing"])
def test_a_continued_run_is_the_same_run(at, ppo, tmp_path):
    """With everything that is carried on: answers, values, the coefficient and the moments of scores."""
    carried = {"ppo_buffer_size": 2, "ppo_score_norm": True, "ppo_kl_horizon": 20, "gradient_accumulation_steps": 1}
    settings = ppo | carried | {"max_steps": 8, "save_strategy": "steps", "save_steps": 1}
    straight = train(settings | {"output_dir": str(tmp_path / "straight")}, tmp_path)
    continued = tmp_path / "continued"
    shutil.copytree(straight / f"checkpoint-{at}", continued / f"checkpoint-{at}")
    train(settings | {"output_dir": str(continued)}, tmp_path)
    assert len(set(history(straight, "objective/kl_coef"))) == 2
    for name in ("loss", "reward", "grad_norm", "objective/kl_coef", "objective/scores", "val/error"):
        assert history(continued, name) == history(straight, name)
    assert largest_difference(weights_of(continued), weights_of(straight)) == 0


def test_a_continued_adapter_is_the_same_run(ppo, variant_of_adapter, tmp_path):
    """The adapter that scores is not taken for the one that learns, nor written with it."""
    settings = ppo | variant_of_adapter | {"max_steps": 4, "save_strategy": "steps", "save_steps": 1}
    straight = train(settings | {"output_dir": str(tmp_path / "straight")}, tmp_path)
    continued = tmp_path / "continued"
    shutil.copytree(straight / "checkpoint-3", continued / "checkpoint-3")
    train(settings | {"output_dir": str(continued)}, tmp_path)
    assert history(continued, "loss") == history(straight, "loss")
    assert largest_difference(weights_of(continued), weights_of(straight)) == 0


@pytest.fixture
def variant_of_adapter(reward_adapter: Path) -> dict[str, Any]:
    """Settings of a run whose answers an adapter scores."""
    adapter = {"reward_model": str(reward_adapter), "reward_model_type": "lora", "finetuning_type": "lora", "lora_target": "all"}
    return adapter | {"ppo_kl_coef": 0.5, "learning_rate": 0.03}


def test_a_reward_model_of_stage_rm_scores_as_it_does_by_itself(ppo, tiny_model_dir, tmp_path):
    """Trained on pairs, named as it was written; one answer a step, so that its logged reward is its own score."""
    rows = [{"instruction": f"Say {n}", "chosen": "the fox sings", "rejected": "rain of rivers"} for n in range(4)]
    data = Path(ppo["dataset_dir"])
    (data / "pairs.json").write_text(json.dumps(rows))
    columns = {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected"}
    info = json.loads((data / "dataset_info.json").read_text())
    info["pairs"] = {"file_name": "pairs.json", "ranking": True, "columns": columns}
    (data / "dataset_info.json").write_text(json.dumps(info))
    lora = {"finetuning_type": "lora", "lora_target": "all", "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1}
    paired = {
        "stage": "rm",
        "dataset": "pairs",
        "output_dir": str(tmp_path / "reward"),
        "tokenized_path": str(tmp_path / "pairs"),
    }
    own = ("reward_model", "ppo_", "max_new_tokens")
    reward = train({key: value for key, value in ppo.items() if not key.startswith(own)} | lora | paired, tmp_path)
    scored = {"reward_model": str(reward), "reward_model_type": "lora", "max_steps": 1, "warmup_steps": 0, "ppo_epochs": 1}
    seen: list[list[int]] = []
    with pytest.MonkeyPatch.context() as patch:
        kept = Ppo.take
        patch.setattr(Ppo, "take", lambda self, scorer: kept(self, lambda talks: seen.extend(talks) or scorer(talks)))
        folder = train(ppo | lora | scored, tmp_path)
    run = load([f"model_name_or_path={tiny_model_dir}", f"adapter_name_or_path={reward}"], "chat")
    scorer = build_scorer(run.model, run.chat, run.adapter)
    batch = pack([Encoded(seen[0], np.full(len(seen[0]), IGNORE))])
    with torch.inference_mode():
        wanted = scorer.policy.scores(batch, batch.ends_BT).item()
    assert history(folder, "reward") == [pytest.approx(wanted, abs=1e-5)]


@pytest.mark.slow
def test_two_processes_equal_one(ppo, tmp_path):
    """Also resumed on the other number, in the midst of a drawing."""
    settings = ppo | {"ppo_buffer_size": 2, "per_device_train_batch_size": 2, "max_steps": 6, "ppo_whiten_rewards": True}
    settings |= {"save_strategy": "steps", "save_steps": 1}
    one = train(settings | {"gradient_accumulation_steps": 4, "output_dir": str(tmp_path / "one")}, tmp_path)
    worlds.on_two(settings | {"gradient_accumulation_steps": 2}, tmp_path / "two")
    shutil.copytree(one / "checkpoint-3", tmp_path / "moved" / "checkpoint-3")
    worlds.on_two(settings | {"gradient_accumulation_steps": 2}, tmp_path / "moved")
    for other in (tmp_path / "two", tmp_path / "moved"):
        for name in ("loss", "reward", "objective/kl", "objective/kl_coef", "val/error"):
            assert history(other, name) == pytest.approx(history(one, name), abs=2e-5, rel=2e-5)
        assert largest_difference(weights_of(other), weights_of(one)) < 5e-5


def test_an_evaluation_scores_answers(ppo, tmp_path):
    settings = {"val_size": 5, "eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True}
    folder = train(ppo | settings | {"save_strategy": "steps", "save_steps": 2, "eval_on_start": True}, tmp_path)
    assert len(history(folder, "eval_reward")) >= 3 and len(history(folder, "eval_completions/mean_length")) >= 3
    best = json.loads((folder / "trainer_state.json").read_text())["best_metric"]
    assert best == max(history(folder, "eval_reward")[1:3])


def test_a_reward_model_that_is_none_is_told(ppo, reward_model, reward_adapter, tiny_model_dir, tmp_path, capsys):
    def said(**settings: Any) -> str:
        train(ppo | settings, tmp_path, code=2)
        return capsys.readouterr().err

    lora = {"reward_model_type": "lora", "finetuning_type": "lora", "lora_target": "all"}
    plain = said(reward_model=str(tiny_model_dir))
    assert "holds no value_head.safetensors, so it gives no scores; train a reward model with stage: rm" in plain
    assert "is a whole model; write reward_model_type: full" in said(**lora)
    assert "is an adapter; write reward_model_type: lora" in said(reward_model=str(reward_adapter))
    assert "reward_model: nowhere/at/all does not exist" in said(reward_model="nowhere/at/all", **lora)
    (of_ppo := tmp_path / "of_ppo").mkdir()
    shutil.copytree(reward_adapter, of_ppo, dirs_exist_ok=True)
    save_file(load_file(of_ppo / "value_head.safetensors"), of_ppo / "value_head.safetensors", metadata={"learned_by": "ppo"})
    assert "was learned by stage: ppo, whose values are no scores" in said(reward_model=str(of_ppo), **lora)
    headless = shutil.copytree(reward_adapter, tmp_path / "headless")
    (headless / "value_head.safetensors").unlink()
    assert "holds no value_head.safetensors" in said(reward_model=str(headless), **lora)


def test_a_reward_model_with_another_tokenizer_is_refused(ppo, reward_model, tmp_path, capsys):
    other = shutil.copytree(reward_model, tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    train(ppo | {"reward_model": str(other)}, tmp_path, code=2)
    said = capsys.readouterr().err
    assert f"{other} has another tokenizer than" in said and f"'a' is {vocabulary['a']} there and {vocabulary['b']} here" in said


def test_a_server_that_goes_ends_the_run_with_its_url(ppo, tmp_path, capsys):
    def reply(number: int, asked: Any) -> tuple[int, bytes]:
        return (200, json.dumps({"scores": [1.0] * len(asked["messages"])}).encode()) if number < 3 else (500, b"")

    desk = Desk(reply)
    served = {"reward_model": desk.url, "reward_model_type": "api", "reward_retries": 0}
    train(ppo | served | {"save_strategy": "steps", "save_steps": 1}, tmp_path, code=1)
    desk.close()
    assert f"the server at {desk.url} answered 500" in capsys.readouterr().err
    assert (Path(ppo["output_dir"]) / "checkpoint-2").is_dir()


def test_a_drawing_must_leave_something_for_every_step(ppo, tmp_path, capsys):
    """23 rows by 16: the last drawing has 7, too few for eight steps."""
    settings = ppo | {"dataloader_drop_last": False, "ppo_buffer_size": 8, "per_device_train_batch_size": 2}
    train(settings | {"gradient_accumulation_steps": 1}, tmp_path, code=2)
    assert "the last drawing of an epoch has 7 answers, too few for 1 processes in 8 steps" in capsys.readouterr().err
