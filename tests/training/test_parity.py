"""The loop gives what transformers.Trainer gives: same losses, same weights, on one process and on two.

Tolerance: both sides compute in fp32; hone packs what the reference pads, so sums are rounded in another order (about 1e-7 a
value). Adam divides by the root of the squared gradient, which lifts rounding of near-zero gradients; 8 steps at learning rate
0.01 stay below 2e-5 in every weight, three orders below one step's change.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hone.commands import train
from tests import worlds
from tests.runs import largest_difference, losses_of, weights_of, write_run
from tests.training import reference_trainer

WEIGHTS, LOSSES = 2e-5, 2e-5


def reference_losses(folder: Path) -> list[float]:
    return [float(line) for line in (folder / "losses.txt").read_text().split()]


def require_parity(settings: dict, reference: Path) -> None:
    ours, theirs = losses_of(settings["output_dir"]), reference_losses(reference)
    assert len(ours) == settings["max_steps"]
    assert ours == pytest.approx(theirs, abs=LOSSES)
    assert ours[-1] < ours[0] - 0.1, "nothing was learned: equal weights would prove nothing"
    assert largest_difference(weights_of(settings["output_dir"]), weights_of(reference)) < WEIGHTS


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_one_process(kind, tiny_run, tmp_path):
    settings = {**tiny_run, "finetuning_type": kind}
    if kind == "full":
        settings.pop("lora_target")
    path = write_run(settings, tmp_path / "run.yaml")
    assert train.main([str(path)]) == 0
    reference_trainer.main(str(path), str(tmp_path / "reference"))
    require_parity(settings, tmp_path / "reference")


@pytest.mark.slow
def test_two_processes(tiny_run, tmp_path):
    # 16 rows fill whole steps of 8: of an uneven last one the reference repeats rows, which would be another loss.
    settings = {**tiny_run, "max_samples": 16}
    path = write_run(settings, tmp_path / "run.yaml")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root}:{os.environ.get('PYTHONPATH', '')}"}
    ours = ["-m", "hone", "train", str(path)]
    theirs = ["-m", "tests.training.reference_trainer", str(path), str(tmp_path / "reference")]
    for words in (ours, theirs):
        launch = [*torchrun, f"--master_port={worlds.free_port()}", *words]
        assert subprocess.run(launch, env=environment, check=False, cwd=root).returncode == 0
    require_parity(settings, tmp_path / "reference")
