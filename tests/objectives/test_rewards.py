"""The built-in rewards, by answers a reader can judge; and how several are weighed."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from hone.chat.message import Conversation, message
from hone.config.objective import BUILTIN_REWARDS
from hone.objectives.rewards.builtin import BUILTIN, Rules, final_number
from hone.objectives.rewards.case import Case, read_note, write_note
from hone.objectives.rewards.judge import Judge

GSM8K = "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\nShe sold 48+24 = 72 altogether.\n#### 72"


def reward(name: str, completion: str, answer: str = "", tokens: int = 0, **rules) -> float:
    return BUILTIN[name](Case(completion, answer, ids=range(tokens)), Rules(**rules))


@pytest.mark.parametrize(
    ("completion", "expected"),
    [("Paris", 1), (" Paris\n", 1), ("<think>Paris? Rome?</think>\nParis", 1), ("paris", 0), ("Paris.", 0), ("", 0)],
)
def test_exact_match(completion: str, expected: float) -> None:
    assert reward("exact_match", completion, "Paris") == expected


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (GSM8K, "72"),
        ("#### 1,234", "1234"),
        ("#### $18.00 a day", "18.00"),
        ("so \\boxed{-3.5} it is, of 7", "-3.5"),
        ("first 5, then 12.", "12"),
        ("#### 2 of 9", "2"),
        ("3/4 of 8 is .5", "0.5"),
        ("none", None),
        ("5 but #### none", None),
    ],
)
def test_the_number_a_text_comes_to(text: str, number: str | None) -> None:
    assert final_number(text) == (None if number is None else Decimal(number))


@pytest.mark.parametrize(
    ("completion", "expected"),
    [(GSM8K, 1), ("The answer is 72.", 1), ("\\boxed{72.0}", 1), ("#### 72\n", 1), ("72 clips, or 73", 0), ("many", 0)],
)
def test_numeric_takes_gsm8ks_own_reference(completion: str, expected: float) -> None:
    assert reward("numeric", completion, GSM8K) == expected


def test_numeric_is_zero_where_neither_has_a_number() -> None:
    assert reward("numeric", "none", "none") == 0


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("<think>two\nlines</think>\nfour", 1),
        ("the prompt opened it</think> four", 1),
        ("four", 0),
        ("<think>no end four", 0),
        ("<think>nothing after</think> ", 0),
    ],
)
def test_format_wants_a_thought_and_words_after_it(completion: str, expected: float) -> None:
    assert reward("format", completion) == expected


def test_format_takes_the_users_pattern() -> None:
    assert reward("format", "#### 7", pattern=r".*#### \d+") == 1
    assert reward("format", "#### 7 or so", pattern=r".*#### \d+") == 0


@pytest.mark.parametrize(("tokens", "expected"), [(0, 0.0), (80, 0.0), (90, -0.5), (95, -0.75), (100, -1.0)])
def test_length_goes_down_over_the_last_fifth(tokens: int, expected: float) -> None:
    """DAPO, eq. 13, with L_max 100 and L_cache 20."""
    assert reward("length", "", tokens=tokens, longest=100) == expected


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ('{"a": [1, 2]}', 1),
        ("3", 1),
        ('Here:\n```json\n{"a": 1}\n```\nDone.', 1),
        ('<think>hm</think>{"a": 1}', 1),
        ('{"a": 1', 0),
        ("{'a': 1}", 0),
        ("NaN", 0),
        ("", 0),
        ("[" * 100000, 0),
    ],
)
def test_json(completion: str, expected: float) -> None:
    assert reward("json", completion) == expected


def test_several_are_weighed_and_summed() -> None:
    judge = Judge(("numeric", "length"), (2.0, 0.5), Rules(longest=100), seconds=1)
    verdicts = judge.judge([Case("#### 4", "#### 4", ids=range(90)), Case("#### 5", "#### 4", ids=range(10))])
    assert [one.reward for one in verdicts] == [2 * 1 + 0.5 * -0.5, 0.0]
    assert [one.parts for one in verdicts] == [(1.0, -0.5), (0.0, 0.0)]
    assert judge.names == ("numeric", "length")


def test_without_weights_each_counts_once() -> None:
    assert Judge(("json", "exact_match"), (), Rules(), seconds=1).judge([Case("3", "3")])[0].reward == 2


def test_the_settings_know_every_built_in() -> None:
    assert tuple(BUILTIN) == BUILTIN_REWARDS


def test_a_note_brings_back_what_a_reward_must_know() -> None:
    asked = Conversation((message("system", "Count."), message("user", "How many?")))
    note = write_note(asked, "four", {"level": 3, "tags": ["a"]})
    case = read_note(note, completion="4", ids=[7, 8], place="rows row 2")
    assert (case.answer, case.completion, case.ids, case.place) == ("four", "4", (7, 8), "rows row 2")
    assert case.columns == {"level": 3, "tags": ["a"]}
    assert case.prompt == [{"role": "system", "content": "Count."}, {"role": "user", "content": "How many?"}]
    assert json.loads(note)
