"""A run goes on with another number of processes as if that had not changed.

Tolerance as in test_invariance: fp32 sums in another order; 1e-5 in losses, 2e-5 in weights.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from hone.training.checkpoints import checkpoint
from tests import worlds
from tests.runs import largest_difference, losses_of, weights_of, write_run


def run(settings: dict[str, Any], tmp_path: Path, name: str, *, world: int, source: Path | None = None) -> Path:
    """Train into a folder of its own on `world` processes (gloo), from a copy of the checkpoint `source`; returns the folder."""
    folder = tmp_path / name
    if source:
        shutil.copytree(source, folder / source.name)
    settings = {**settings, "output_dir": str(folder), "gradient_accumulation_steps": 2 // world}
    path = write_run(settings, tmp_path / f"{name}.yaml")
    said = worlds.train(path, world)
    assert not source or f"continuing {folder / source.name} at step {checkpoint.step_of(source)} of 12" in said
    assert not source or said.count("was saved by another number of processes") == 1
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_one_process_and_two_continue_each_other(kind, tiny_run, tmp_path):
    """12 steps are two epochs of 23 rows, so both resumes are in the middle of one; the last step of an epoch is uneven."""
    settings = {**tiny_run, "finetuning_type": kind, "disable_shuffling": False, "max_steps": 12}
    settings |= {"save_strategy": "steps", "save_steps": 4}
    straight = run(settings, tmp_path, "straight", world=1)
    two = run(settings, tmp_path, "two", world=2, source=straight / "checkpoint-4")
    assert losses_of(two) == pytest.approx(losses_of(straight)[4:], abs=1e-5)
    assert largest_difference(weights_of(two), weights_of(straight)) < 2e-5
    one = run(settings, tmp_path, "one", world=1, source=two / "checkpoint-8")
    assert losses_of(one) == pytest.approx(losses_of(straight)[8:], abs=1e-5)
    assert largest_difference(weights_of(one), weights_of(straight)) < 2e-5
