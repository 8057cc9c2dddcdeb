"""The router's balance loss beside what is learned of own answers: there in every such stage, and the same in every layout.

Tolerance: fp32 sums in another order, 1e-5. Does not know the loss's formula; tests/models/test_router does.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.families import tiny
from tests.scoring import write_value_head
from tests.training.test_grpo import history
from tests.training.test_ppo import train

STAGES: dict[str, dict[str, Any]] = {
    "grpo": {"reward_funcs": "length", "num_generations": 2, "loss_type": "grpo"},
    "dapo": {"reward_funcs": "length", "num_generations": 2, "loss_type": "dapo"},
    "ppo": {"reward_model_type": "full", "ppo_vf_coef": 0},
    "gkd": {"gkd_lambda": 1},
}


@pytest.fixture
def experts(tiny_run, tiny_tokenizer, tmp_path) -> dict[str, Any]:
    """Settings of one step of a tiny mixture of experts, whose base is its teacher too, and its reward model."""
    folder = tmp_path / "experts"
    tiny("mixtral", vocab_size=len(tiny_tokenizer), max_position_embeddings=512).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    judge = shutil.copytree(folder, tmp_path / "judge")
    write_value_head(judge, tiny("mixtral").config.hidden_size, 0)
    places = {"model_name_or_path": str(folder), "teacher_model": str(folder), "reward_model": str(judge)}
    step = {"max_steps": 1, "warmup_steps": 0, "finetuning_type": "full", "lora_target": None, "max_new_tokens": 6}
    return {**tiny_run, **places, **step, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1}


@pytest.mark.parametrize("stage", STAGES)
def test_it_is_learned_in_every_layout(stage, experts, tmp_path):
    others = {"gkd": "reward_model", "ppo": "teacher_model"}.get(stage, "")
    settings = {**experts, "stage": "grpo" if stage == "dapo" else stage, **STAGES[stage]}
    for key in {"reward_model", "teacher_model"} if stage in ("grpo", "dapo") else {others}:
        settings.pop(key)

    def loss(name: str, **changes: object) -> float:
        folder: Path = train({**settings, **changes, "output_dir": str(tmp_path / name)}, tmp_path)
        return history(folder, "loss")[0]

    whole = loss("whole", moe_aux_loss_coef=0.5)
    split = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}
    assert loss("split", moe_aux_loss_coef=0.5, **split) == pytest.approx(whole, abs=1e-5)
    assert whole - loss("without", moe_aux_loss_coef=0) > 0.9, "0.5 times a loss of about 2, one for each of two experts a token"
