"""Weights in shards train as whole ones do, and any engine and number of processes goes on with what another has saved.

Tolerance as in test_invariance, fp32 sums in another order: 1e-5 in losses, 2e-5 in weights. In bf16 the weights of
norms are rounded to it where they are sent: a step's loss differs by less than a unit of its last place, 2^-7 of about 5.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from hone.training.checkpoints import checkpoint
from tests import worlds
from tests.runs import largest_difference, losses_of, weights_of, write_run

HALF, STEPS = 3, 6


def run_all(files: list[str]) -> int:
    """Every run after the other in the same processes, whose start is most of a small run's time."""
    from hone.config import load, to_yaml
    from hone.training.prepare import prepare
    from hone.training.processes.launch import leave
    from hone.training.session import carry_out

    first = int(os.environ.get("MASTER_PORT", "0"))
    for number, file in enumerate(files):
        os.environ["MASTER_PORT"] = str(first + number)  # the last one's may still be closing
        run = load([file], "train")
        carry_out(prepare(run, settings=to_yaml(run)))
    leave(0)


class Runs:
    """Settings by name, written as files; what they leave by name."""

    def __init__(self, base: dict[str, Any], folder: Path):
        self._base, self._folder = base, folder

    def __call__(self, world: int, **named: dict[str, Any]) -> None:
        """Train them on `world` processes; source: the run whose checkpoint at HALF one continues."""
        files = []
        for name, settings in named.items():
            source = settings.pop("source", None)
            if source:
                shutil.copytree(self[source] / f"checkpoint-{HALF}", self[name] / f"checkpoint-{HALF}")
            settings = {**self._base, "gradient_accumulation_steps": 2 // world, **settings, "output_dir": str(self[name])}
            files.append(str(write_run(settings, self._folder / f"{name}.yaml")))
        worlds.fork(world, run_all, files, beside=self._folder / f"{next(iter(named))}.yaml")

    def __getitem__(self, name: str) -> Path:
        return self._folder / name

    def differ(self, name: str, other: str) -> tuple[float, float]:
        """The largest difference of losses, of the last steps that both have, and of weights at the end."""
        mine, its = losses_of(self[name]), losses_of(self[other])
        steps = min(len(mine), len(its))
        losses = max(abs(a - b) for a, b in zip(mine[-steps:], its[-steps:], strict=True))
        return losses, largest_difference(weights_of(self[name]), weights_of(self[other]))


def test_shards_train_as_whole_weights_do_and_go_on_from_each_other(tiny_run, tmp_path):
    """Five rows to evaluate are three for one process and two for the other, which must go forward as often."""
    from transformers import AutoModelForCausalLM

    base = {**tiny_run, "max_steps": STEPS, "save_strategy": "steps", "save_steps": HALF, "val_size": 5, "eval_strategy": "steps"}
    base |= {"eval_steps": HALF, "per_device_eval_batch_size": 1}
    full, lora, qlora = {"finetuning_type": "full"}, {"bf16": True}, {"quantization_bit": 4}
    shards = {"fsdp": "full_shard auto_wrap", "fsdp_config": {"fsdp_state_dict_type": "SHARDED_STATE_DICT"}}
    runs = Runs(base, tmp_path)
    runs(1, one_full={**full}, one_lora={**lora}, one_qlora={**qlora})
    runs(
        2,
        full={**full, **shards},
        lora={**lora, "fsdp": "true", "save_async": True, "gradient_checkpointing": True},
        on={**full, "fsdp": "full_shard offload", "source": "one_full"},
        cut={**full, "context_parallel_size": 2, "gradient_accumulation_steps": 2},
        qlora={**qlora, "fsdp": "true"},
        qlora_on={**qlora, "fsdp": "full_shard offload", "source": "one_qlora"},
    )
    runs(1, back={**full, "source": "full"}, lora_back={**lora, "source": "lora"}, qlora_back={**qlora, "source": "qlora"})
    for name in ("full", "on", "back", "cut", "qlora", "qlora_on", "qlora_back"):
        losses, weights = runs.differ(name, "one_qlora" if "qlora" in name else "one_full")
        assert losses < 1e-4 and weights < 2e-5, name  # the log rounds losses to 4 digits
    assert runs.differ("lora", "one_lora")[0] < 2**-5 and runs.differ("lora_back", "one_lora")[0] < 2**-5
    saved = runs["full"] / f"checkpoint-{HALF}"
    assert (
        not checkpoint.problem_of(saved) and not list(saved.glob("*.safetensors")) and (saved / "sharded" / ".metadata").is_file()
    )
    assert (runs["lora"] / f"checkpoint-{HALF}" / "adapter_model.safetensors").is_file()
    read = AutoModelForCausalLM.from_pretrained(runs["full"], dtype=torch.float32).state_dict()
    assert all(torch.equal(read[name], weight) for name, weight in weights_of(runs["full"]).items())


@pytest.mark.parametrize("word", ["full_shrad", "no_shard"])
def test_a_word_of_fsdp_that_is_none_is_told(word):
    from hone.config.sharding import read_sharding

    (finding,) = read_sharding((word,), {})[1]
    assert finding[0] == "fsdp" and ("full_shard" in finding[1] or "leave fsdp out" in finding[1])


def test_the_plan_counts_a_share_of_weights_and_moments(tiny_run, tmp_path):
    """Two processes hold half of the weights and moments each, and beside it, whole, what is outside of layers and one layer."""
    from hone.config import load
    from hone.models.shape import meta_model
    from hone.training.planning.choose import with_batch
    from hone.training.planning.draft import gather_material
    from hone.training.planning.forecast import forecast

    file = write_run({**tiny_run, "finetuning_type": "full"}, tmp_path / "run.yaml")
    found = []
    for words in ([], ["fsdp=true"]):
        run = with_batch(load([str(file), *words], "train"), 1, 2)
        material = gather_material(run)
        found.append(forecast(run, material.objective, material.tokens, "kept", device=torch.device("cpu"), world=2).memory)
    whole, share = found
    assert share.optimizer * 2 == pytest.approx(whole.optimizer, abs=1)
    first, _ = meta_model(run.model).model.layers
    layer = sum(4 * weight.numel() for weight in first.parameters())
    assert share.weights == whole.weights // 2 + whole.weights - layer
