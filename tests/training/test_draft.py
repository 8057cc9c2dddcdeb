"""What is gathered for a run: training sets are mixed as the settings say, evaluation sets are read once, one after the other."""

from __future__ import annotations

import json
from pathlib import Path

from hone.config import load
from hone.training.draft import gather_material
from tests.runs import make_rows, write_run


def test_evaluation_sets_are_not_interleaved_though_they_are_the_training_sets(tiny_run, tmp_path):
    folder = Path(tiny_run["dataset_dir"])
    (folder / "more.json").write_text(json.dumps(make_rows(5)))
    (folder / "dataset_info.json").write_text(
        json.dumps({"rows": {"file_name": "rows.json"}, "more": {"file_name": "more.json"}})
    )
    both = {"dataset": "rows,more", "eval_dataset": "rows,more", "mix_strategy": "interleave_under"}
    material = gather_material(load([str(write_run({**tiny_run, **both}, tmp_path / "run.yaml"))], "train"))
    assert [name for name, _ in map(material.evals[""].origin, range(28))] == ["rows"] * 23 + ["more"] * 5
    assert len(material.tokens) < 28
