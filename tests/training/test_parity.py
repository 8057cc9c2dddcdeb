"""The loop gives what transformers.Trainer gives: same losses, same weights, on one process and on two.

Tolerance: both sides compute in fp32; hone packs what the reference pads, so sums are rounded in another order (about 1e-7 a
value). Adam divides by the root of the squared gradient, which lifts rounding of near-zero gradients; 8 steps at learning rate
0.01 stay below 2e-5 in every weight, three orders below one step's change.
"""

from __future__ import annotations

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
    worlds.train(path, 2)
    worlds.fork(2, reference_trainer.main, str(path), str(tmp_path / "reference"), beside=tmp_path / "reference.yaml")
    require_parity(settings, tmp_path / "reference")
