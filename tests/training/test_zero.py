"""DeepSpeed's ZeRO trains what one process trains, and a run goes from one engine to another.

Tolerance as in test_worlds: fp32 sums in another order; 1e-5 in losses, 2e-5 in weights.
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hone.training.engines.stand_in import stand_in
from tests import worlds
from tests.runs import largest_difference, losses_of, weights_of, write_run

needs_deepspeed = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed")
STAGE_2, STAGE_3 = {"zero_optimization": {"stage": 2}}, {"zero_optimization": {"stage": 3}}
CPU = {"device": "cpu", "pin_memory": False}
OFFLOADED = {"zero_optimization": {"stage": 3, "offload_optimizer": CPU, "offload_param": CPU}}


def run(settings: dict[str, Any], tmp_path: Path, name: str, *, world: int, source: Path | None = None) -> Path:
    """Train 4 steps into a folder of its own on `world` processes, from a copy of the checkpoint `source`; the folder."""
    folder = tmp_path / name
    if source:
        shutil.copytree(source, folder / source.name)
    settings = {**settings, "output_dir": str(folder), "gradient_accumulation_steps": 4 // world, "max_steps": 4}
    worlds.train(write_run(settings, tmp_path / f"{name}.yaml"), world)
    return folder


def require_same(left: Path, right: Path) -> None:
    """Equal losses, from where the right one began, and equal weights."""
    losses = losses_of(right)
    assert losses == pytest.approx(losses_of(left)[-len(losses) :], abs=1e-5)
    assert largest_difference(weights_of(left), weights_of(right)) < 2e-5


@needs_deepspeed
@pytest.mark.slow
@pytest.mark.parametrize(("kind", "fields"), [("lora", STAGE_2), ("lora", OFFLOADED), ("full", STAGE_3)])
def test_two_processes_train_what_one_does(kind: str, fields: dict[str, Any], tiny_run, tmp_path):
    settings = {**tiny_run, "finetuning_type": kind}
    if kind == "full":
        settings.pop("lora_target")
    one = run(settings, tmp_path, "one", world=1)
    require_same(one, run({**settings, "deepspeed": fields}, tmp_path, "zero", world=2))


@needs_deepspeed
@pytest.mark.slow
def test_a_run_goes_to_zero_and_back(tiny_run, tmp_path):
    """The second step's checkpoint of one process is continued by stage 3 on two, whose third by one process again."""
    settings = {**tiny_run, "save_strategy": "steps", "save_steps": 1}
    straight = run(settings, tmp_path, "straight", world=1)
    zero = run({**settings, "deepspeed": STAGE_3}, tmp_path, "zero", world=2, source=straight / "checkpoint-2")
    require_same(straight, zero)
    require_same(straight, run(settings, tmp_path, "back", world=1, source=zero / "checkpoint-3"))


def test_weights_stand_in_and_go():
    """Shared weights stay shared, the gradient of what stands aside stays, and what is written can be read."""
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    second.weight = first.weight
    module, own = nn.Sequential(first, second), first.weight
    with stand_in(module, {id(own): torch.ones(3, 5)}) as standing:
        assert first.weight is second.weight and first.weight.shape == (3, 5) and first.weight.requires_grad
        assert module.state_dict()["1.weight"].shape == (3, 5) and set(standing) == {id(own)}
        with torch.no_grad():
            first.weight.fill_(2)
    assert first.weight is second.weight is own and float(standing[id(own)].detach().sum()) == 30
