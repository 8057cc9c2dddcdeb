"""A user's reward function, in its own process: called with keywords, stopped when it hangs, blamed by name when it errs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hone.errors import TrainingError
from hone.objectives.rewards.case import Case
from hone.objectives.rewards.function import RewardFunction

SOURCE = """
import sys, time
calls = 0

def brevity(completions, **columns):
    print("words for people", file=sys.stdout)
    return [-len(text) for text in completions]

def everything(prompts, completions, completion_ids, answers, level):
    assert prompts == [[{"role": "user", "content": "2+2"}]] * 2 and answers == ["4", "6"]
    return [float(ids[0] + (number or 100)) for ids, number in zip(completion_ids, level)]

def counting(completions, **columns):
    global calls
    calls += 1
    return [calls] * len(completions)

def raising(completions, **columns):
    return [1 / len(text) for text in completions]

def hanging(completions, **columns):
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass

def numpy_numbers(completions, **columns):
    import numpy
    return numpy.array([0.5] * len(completions), dtype=numpy.float32)

def nan(completions, **columns): return [1.0] + [float("nan")] * (len(completions) - 1)
def none(completions, **columns): return [None for text in completions]
def text(completions, **columns): return ["good" for text in completions]
def short(completions, **columns): return [1.0]
def single(completions, **columns): return 1.0
def leaving(completions, **columns): sys.exit(3)
def dying(completions, **columns): import os; os._exit(7)
number = 3
"""
CASES = [
    Case("four", "4", [{"role": "user", "content": "2+2"}], {"level": 3}, (10,), "rows row 0"),
    Case("", "6", [{"role": "user", "content": "2+2"}], {}, (20,), "rows row 5"),
]


@pytest.fixture
def function(tmp_path: Path) -> Iterator[Callable[..., RewardFunction]]:
    file, made = tmp_path / "rewards.py", []
    file.write_text(SOURCE)

    def make(name: str, seconds: float = 30.0) -> RewardFunction:
        made.append(RewardFunction(f"{file}:{name}", seconds=seconds))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_it_is_called_with_texts_and_may_print(function) -> None:
    assert function("brevity")(CASES) == [-4.0, 0.0]


def test_it_gets_prompts_ids_answers_and_the_rows_columns(function) -> None:
    """A column that another set's rows lack is None for them."""
    assert function("everything")(CASES) == [13.0, 120.0]


def test_its_process_stays_between_calls(function) -> None:
    counting = function("counting")
    assert [counting(CASES)[0], counting(CASES)[0]] == [1.0, 2.0]


def test_arrays_of_numpy_are_lists_of_numbers(function) -> None:
    assert function("numpy_numbers")(CASES) == [0.5, 0.5]


def test_a_function_of_a_module(monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "house_rewards.py").write_text("def ones(completions, **columns): return [1 for _ in completions]\n")
    monkeypatch.chdir(tmp_path)
    ones = RewardFunction("house_rewards:ones", seconds=30)
    assert ones(CASES) == [1.0, 1.0]
    ones.close()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("raising", r"raising failed on rows row 0, rows row 5: ZeroDivisionError: .*rewards.py:\d+"),
        ("nan", r"nan returned nan for rows row 5, which was answered ''; a finite number is wanted"),
        ("none", r"none returned None for rows row 0, which was answered 'four'"),
        ("text", r"text returned \"str 'good'\" for rows row 0"),
        ("short", r"short returned 1 rewards for 2 completions of rows row 0, rows row 5"),
        ("single", r"single returned 1.0; a list with one number for each completion is wanted"),
        ("leaving", r"leaving failed on .*SystemExit: 3"),
        ("dying", r"dying of rows row 0, rows row 5: its process ended by itself \(exit code 7\)"),
        ("missing", r"missing cannot be loaded: AttributeError"),
        ("number", r"number cannot be loaded: TypeError: number is a int, not a function"),
    ],
)
def test_what_goes_wrong_names_the_function_and_the_row(function, name: str, said: str) -> None:
    with pytest.raises(TrainingError, match=said):
        function(name)(CASES)


def test_one_that_hangs_and_swallows_every_exception_is_stopped(function) -> None:
    hanging = function("hanging", seconds=0.5)
    hanging.start()
    process = hanging._process
    with pytest.raises(TrainingError, match=r"hanging of rows row 0, .* did not end within 0.5 seconds .* raise reward_timeout"):
        hanging(CASES)
    assert process.poll() is not None


def test_a_column_may_not_take_a_name_of_hones(function) -> None:
    with pytest.raises(TrainingError, match='a column "completions"'):
        function("brevity")([Case("a", columns={"completions": 1})])


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(TrainingError, match=r"there is no file nowhere/rewards.py"):
        RewardFunction("nowhere/rewards.py:f", seconds=1).start()
