"""Runs with numbers of few bits end to end: states in bfloat16, a base in float8; stopped and continued, to the same bits."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hone.commands import train
from tests.runs import largest_difference, weights_of, write_run

KINDS = {
    "adamw_bf16": {"finetuning_type": "full", "pure_bf16": True, "optim": "adamw_bf16", "learning_rate": 1e-3},
    "fp8": {"quantization_bit": 8, "quantization_method": "fp8"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_is_continued_ends_with_the_same_weights(kind, tiny_run, tmp_path, capsys):
    settings = {**tiny_run, **KINDS[kind], "save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    if kind == "adamw_bf16":
        del settings["lora_target"]
    file = write_run(settings, tmp_path / "run.yaml")
    assert train.main([str(file)]) == 0
    said = capsys.readouterr().err
    assert "falls back   attention: " in said, "each fallback is printed at the start"
    assert ("falls back   weights in float8: turned back" in said) == ("in float8: " in said) == (kind == "fp8")
    folder = Path(settings["output_dir"])
    whole = weights_of(folder)
    shutil.rmtree(folder / "checkpoint-4")
    assert train.main([str(file)]) == 0
    assert "at step 2 of 4" in capsys.readouterr().err
    assert largest_difference(weights_of(folder), whole) == 0.0
