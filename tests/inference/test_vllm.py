"""Rollouts by a server: a run learns what it does without one, hands over each policy once, and tells what goes wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.inference.stand_in_vllm import StandInVllm
from tests.runs import largest_difference, losses_of, make_rows, weights_of, write_run

from hone import cli
from hone.config import load
from hone.errors import ConfigError, TrainingError
from hone.inference.rollout import Prompt, Sampling
from hone.inference.vllm import VllmSampler


@pytest.fixture
def grpo(tiny_run, tmp_path: Path):
    """Three steps of two prompts with four answers each, by LoRA, rewarded for even tokens."""
    (tmp_path / "rewards.py").write_text(
        "def even(completion_ids, **columns):\n    return [sum(token % 2 == 0 for token in ids) for ids in completion_ids]\n"
    )
    (tmp_path / "data" / "rows.json").write_text(json.dumps(make_rows(12)))
    return tiny_run | {
        "stage": "grpo", "reward_funcs": f"{tmp_path / 'rewards.py'}:even", "num_generations": 4, "max_new_tokens": 6,
        "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "max_steps": 3, "warmup_steps": 0,
        "top_p": 1.0, "top_k": 0, "temperature": 0.9,
    }  # fmt: skip


def test_a_run_with_a_server_learns_what_it_does_without(grpo, tiny_model_dir, tmp_path):
    """1e-5: the server draws prompts one by one, the model that learns in left-padded batches."""
    assert cli.main(["train", str(write_run({**grpo, "output_dir": str(tmp_path / "own")}, tmp_path / "own.yaml"))]) == 0
    with StandInVllm(tiny_model_dir) as server:
        settings = {**grpo, "output_dir": str(tmp_path / "out"), "rollout_server": server.url}
        assert cli.main(["train", str(write_run(settings, tmp_path / "out.yaml"))]) == 0
        assert not server.loaded, "the adapter is let go at the end"
        assert len({body["model"] for body in server.asked}) == 3 and len(server.asked) == 24
    assert all(float(weight.abs().max()) > 1e-3 for name, weight in weights_of(tmp_path / "out").items() if "lora_B" in name)
    assert losses_of(tmp_path / "out") == pytest.approx(losses_of(tmp_path / "own"), abs=1e-5)
    assert largest_difference(weights_of(tmp_path / "out"), weights_of(tmp_path / "own")) < 1e-5
    assert not list((tmp_path / "out").glob(".rollout*/*"))


def test_a_server_of_another_policy_is_found_at_the_start(grpo, tiny_model_dir, tmp_path, capsys):
    def spoil(choice):
        return {**choice, "logprobs": {"token_logprobs": [number - 1 for number in choice["logprobs"]["token_logprobs"]]}}

    with StandInVllm(tiny_model_dir, spoil) as server:
        settings = {**grpo, "rollout_server": server.url}
        assert cli.main(["train", str(write_run(settings, tmp_path / "out.yaml"))]) == 1
    assert "does not run the policy that is trained" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda choice: {"text": "hi"}, "one choice is wanted, with token_ids .*KeyError: 'token_ids'"),
        (lambda choice: {**choice, "token_ids": choice["token_ids"][:-1]}, "gave 2 tokens with 3 log-probs"),
        (lambda choice: {**choice, "finish_reason": "stop"}, "and the stop token last where it ends by stop"),
    ],
)
def test_an_answer_that_is_none_names_the_server(spoil, said, tmp_path):
    with StandInVllm(tmp_path) as server:
        made = {"token_ids": [1, 2, 3], "logprobs": {"token_logprobs": [-1.0] * 3}, "finish_reason": "length"}
        server.answer = lambda path, body: (200, json.dumps({"choices": [spoil(made)]}).encode())
        sampler = VllmSampler(server.url, tmp_path, lambda folder: None, at_once=2, seconds=20)
        with pytest.raises(TrainingError, match=f"rollout_server: the server at {server.url} .*{said}"):
            sampler.draw([Prompt(np.array([3, 4], np.int32), 1)], Sampling(3, (9,), 0))


def test_a_server_that_is_not_there_or_takes_no_adapters_is_told(tmp_path):
    with StandInVllm(tmp_path) as server:
        server.answer = lambda path, body: (404, b"Not Found")
        sampler = VllmSampler(server.url, tmp_path, lambda folder: None, at_once=2, seconds=20)
        with pytest.raises(TrainingError, match=r"answered 404 .*VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"):
            sampler.refresh()
    with pytest.raises(TrainingError, match="cannot be reached"):
        sampler.refresh()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"rollout_server": "localhost:8000"}, "wanted a URL such as"),
        ({"finetuning_type": "full", "lora_target": None}, "write finetuning_type: lora"),
        ({"use_dora": True}, "use_dora: is not known to vLLM's adapters"),
        ({"top_p": 0.9}, "saw 0.9, and of such draws"),
        ({"top_k": 20}, "saw 20, and of such draws"),
    ],
)
def test_what_a_server_cannot_draw_is_refused(more, said, grpo, tmp_path):
    settings = {key: value for key, value in {**grpo, "rollout_server": "http://a:1", **more}.items() if value is not None}
    with pytest.raises(ConfigError, match=said):
        load([str(write_run(settings, tmp_path / "run.yaml"))], "train")
