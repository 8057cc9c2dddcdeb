"""What a run of the bench means: when it is no result, how many times better a setting is, and the goals beside it.

Does not run a peer.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"
sys.path.insert(0, str(BENCH))

import cases  # noqa: E402
import report  # noqa: E402
from cases import Case, Setting  # noqa: E402
from report import Goal, Measured  # noqa: E402

FP32, BF16 = Setting("llamafactory", "stock"), Setting("llamafactory", "best", {"bf16": True})
PACKED = Setting("llamafactory", "best", {"packing": True})
MIB = 2**20


def notes(*losses: float, digests: str = "abc", tokens: int = 100, cpu: float = 2.0) -> dict[str, Any]:
    """A run of a step for each loss, its first three times as long as the others."""
    steps = [
        {"loss": loss, "digest": digest, "tokens": tokens, "places": 2 * tokens, "cpu": cpu, "wall": 2 * cpu}
        for loss, digest in zip(losses, digests, strict=False)
    ]
    steps[0] |= {"cpu": 30.0, "wall": 40.0}
    whole = {"steps": steps, "peak": 500 * MIB, "imported": {"bytes": 300 * MIB, "cpu": 5.0}, "weights": 50 * MIB}
    return whole | {"ready": 9.0, "loading": 1.0}


REFERENCE = notes(10.0, 9.0, 8.0)
SFT, DPO = Case("", "train", ""), Case("", "train", "", stage="dpo")


@pytest.mark.parametrize(
    "setting, run, told",
    [
        (FP32, notes(10.0, 9.0, 8.0), ""),
        (FP32, notes(10.0, 9.0009, 8.0), ""),
        (FP32, notes(10.0, 9.002, 8.0), "another loss in step 2: 9.0020, not 9.0000"),
        (FP32, notes(10.0, float("nan"), 8.0), "another loss in step 2: nan, not 9.0000"),
        (FP32, notes(10.0, 9.0, 8.0, digests="abd"), "other tokens in step 3"),
        (FP32, notes(10.0, 9.0), "2 steps of 3"),
        (FP32, {"error": "ValueError: no"}, "ValueError: no"),
        (BF16, notes(10.0, 9.002, 8.0), ""),
        (BF16, notes(10.0, 9.02, 8.0), "another loss in step 2: 9.0200, not 9.0000"),
        (PACKED, notes(9.9, 9.2, 8.1, digests="xyz", tokens=95), ""),
        (PACKED, notes(9.0, 9.0, 8.0, digests="xyz"), "another loss: 8.6667 on average, not 9.0000"),
        (PACKED, notes(10.0, 9.0, 8.0, tokens=80), "other tokens: 0.80 times as many"),
    ],
)
def test_a_run_that_did_another_thing_is_no_result(setting: Setting, run: dict[str, Any], told: str):
    assert report.problem_of(SFT, setting, run, REFERENCE) == told
    found = report.measured(SFT, setting, run, REFERENCE)
    assert (found.problem, not found.figures) == (told, bool(told))


def test_a_margin_adds_up_what_rounding_leaves():
    apart = {size: notes(10.0, 9.0 + size, 8.0) for size in (0.004, 0.006, 0.04, 0.06)}
    assert [bool(report.problem_of(DPO, FP32, run, REFERENCE)) for run in apart.values()] == [False, True, True, True]
    assert [bool(report.problem_of(DPO, BF16, run, REFERENCE)) for run in apart.values()] == [False, False, False, True]


def test_the_figures_leave_the_first_step_imports_and_weights_out():
    found = report.measured(Case("", "train", ""), FP32, REFERENCE, REFERENCE).figures
    assert found["rate"] == [50.0, 50.0] and found["wall_rate"] == [25.0, 25.0]  # 100 tokens in 2 and in 4 seconds
    assert found["first"] == [30.0] and found["first_wall"] == [40.0]
    assert found["prepare"] == [9.0 - 5.0 - 1.0]
    assert found["over"] == [200 * MIB] and found["above"] == [150 * MIB] and found["places"] == [2.0]
    pairs = report.measured(Case("", "train", "", stage="dpo", batch=4), FP32, REFERENCE, REFERENCE).figures
    assert pairs["rate"] == [2.0, 2.0]


def test_settings_are_compared_round_by_round():
    one = Measured("hone fp32", {"rate": [20.0, 60.0], "first": [5.0]})
    other = Measured("trl best", {"rate": [10.0, 20.0], "first": [20.0]})
    assert report.times_better(one, other, "rate") == [2.0, 3.0]
    assert report.times_better(one, other, "first") == [4.0]
    assert report.times_better(one, Measured("trl stock", problem="other tokens"), "rate") == []
    assert report.spread([2.0, 3.0, 4.5]) == "3.00 (2.00 to 4.50)" and report.spread([2.0]) == "2.00"


def test_goals_are_reached_missed_or_without_a_result():
    found = {
        "lora": [
            Measured("hone bf16", {"rate": [30.0]}),
            Measured("trl best", {"rate": [10.0]}),
            Measured("llamafactory best", {"rate": [25.0]}),
            Measured("transformers best", problem="another loss"),
        ]
    }
    lines = report.goal_lines([Goal("lora", "speed", "rate", "hone bf16", "* best", 1.5)], found)
    verdicts = {cells[3].strip(): cells[-2].strip() for line in lines[2:] if (cells := line.split("|"))}
    assert verdicts == {"llamafactory best": "missed", "trl best": "reached", "transformers best": "no result"}
    assert len(report.goal_lines(report.read_goals(), {})) == 2  # nothing ran, nothing is claimed


def test_a_table_shows_every_setting_and_why_one_is_no_result():
    mine = report.measured(Case("", "train", ""), Setting("hone", "fp32"), REFERENCE, REFERENCE)
    its = report.measured(Case("", "train", ""), FP32, notes(10.0, 9.0, 8.0, cpu=6.0), REFERENCE)
    wrong = Measured("trl stock", problem="other tokens in step 1")
    heads, _, *rows = report.training_table(Case("", "train", ""), [mine, its, wrong])
    assert [row.split("|")[1].strip() for row in rows] == ["hone fp32", "llamafactory stock", "trl stock"]
    assert rows[1].split("|")[4].strip() == "3.00 (3.00 to 3.00)" and heads.split("|")[4].strip() == "hone fp32 faster"
    assert "no result: other tokens in step 1" in rows[2]
    assert {row.count("|") for row in rows} == {heads.count("|")}


def test_every_goal_is_of_something_that_is_measured():
    _, known = cases.read()
    others = {"start": {"hone", "llamafactory"}, "data": {f"{who}, {way}" for who in ("hone", "llamafactory") for way in WAYS}}
    for goal in report.read_goals():
        labels = others.get(goal.case) or {one.label for one in known[goal.case].settings}
        assert goal.of in labels, goal
        assert any(report.fnmatch(label, goal.over) for label in labels - {goal.of}), goal


WAYS = ("one process", "two processes", "read again")
