"""Tests of the overlong policies: what is cut, in which order, and what is never cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hone.chat.encoded import IGNORE
from hone.chat.message import Conversation, Message, ToolCall, message
from hone.data.columns import RowError
from hone.data.cut import level_cut, windows
from hone.data.overlong import fit
from hone.data.sample import Dialog, Passage
from hone.errors import DataError
from tests.data.plain import BEGIN, HEADERS, STOP, PlainCodec, PlainObjective, only, spelled

POLICIES = ["truncate_left", "truncate_right", "split"]


def dialog(*said: tuple[str, str]) -> Dialog:
    return Dialog(Conversation(tuple(message(role, text) for role, text in said)))


def fitted(sample, cutoff_len, overlong, learn="answers"):
    objective, codec = PlainObjective(type(sample), learn), PlainCodec()

    def encode(one):
        return objective.encode([one], codec)[0]

    return fit(sample, encode(sample), cutoff_len=cutoff_len, overlong=overlong, encode=encode)


def texts(sample, cutoff_len, overlong, learn="answers"):
    return [spelled(one) for one in fitted(sample, cutoff_len, overlong, learn).sequences]


@pytest.mark.parametrize("overlong", ["drop", "error", *POLICIES])
def test_what_fits_is_whole(overlong):
    sample = dialog(("user", "abc"), ("assistant", "de"))
    result = fitted(sample, 10, overlong)
    assert [spelled(one) for one in result.sequences] == ["^Uabc.Ade."]
    assert not result.truncated


def test_a_question_is_cut_before_the_answer():
    sample = dialog(("user", "abcdefgh"), ("assistant", "xyz"))
    assert texts(sample, 12, "truncate_right") == ["^Uabcd.Axyz."]
    assert texts(sample, 12, "truncate_left") == ["^Uefgh.Axyz."]
    assert texts(sample, 12, "split") == ["^Uabcd.Axyz."]  # one turn cannot be split


def test_the_longest_is_cut_first_to_a_common_level():
    sample = dialog(("system", "s" * 10), ("user", "u" * 4), ("assistant", "a"))
    assert texts(sample, 16, "truncate_right") == ["^Sssss.Uuuuu.Aa."]
    assert texts(sample, 14, "truncate_right") == ["^Ssss.Uuuu.Aa."]


def test_an_answer_is_cut_last_at_its_end_and_keeps_its_stop_token():
    sample = dialog(("user", "u" * 9), ("assistant", "abcdefghijklmnopqrst"))
    # 16 // 8 = 2 tokens of the question stay while the answer can give
    assert texts(sample, 16, "truncate_right") == ["^Uuu.Aabcdefghi."]
    assert texts(sample, 16, "truncate_left") == ["^Uuu.Aabcdefghi."]


def test_whole_turns_go_when_cutting_contents_is_not_enough():
    turns = [pair for n in range(4) for pair in (("user", f"{n}?"), ("assistant", f"{n}" * 10))]
    sample = dialog(("system", "s"), *turns)
    assert texts(sample, 40, "truncate_right") == ["^Ss.U0?.A0000000000.U1?.A1111111111."]
    assert texts(sample, 40, "truncate_left") == ["^Ss.U2?.A2222222222.U3?.A3333333333."]


def test_split_makes_samples_of_whole_turns_each_with_the_system_message():
    turns = [pair for n in range(4) for pair in (("user", f"{n}?"), ("assistant", f"{n}" * 10))]
    result = fitted(dialog(("system", "s"), *turns), 40, "split")
    assert [spelled(one) for one in result.sequences] == [
        "^Ss.U0?.A0000000000.U1?.A1111111111.",
        "^Ss.U2?.A2222222222.U3?.A3333333333.",
    ]
    assert not result.truncated


@pytest.mark.parametrize("overlong", POLICIES)
def test_where_only_the_last_answer_is_learned_it_stays(overlong):
    turns = [pair for n in range(4) for pair in (("user", f"{n}?"), ("assistant", f"{n}" * 10))]
    [only] = fitted(dialog(*turns), 40, overlong, learn="last").sequences
    assert spelled(only).endswith("U3?.A3333333333.")
    assert only.num_trained == 11


@pytest.mark.parametrize("overlong", ["truncate_left", "truncate_right"])
def test_a_tool_call_is_never_cut(overlong):
    call = Message("assistant", (ToolCall("f", {"a": "b" * 9}),))
    sample = Dialog(Conversation((message("user", "u" * 9), call, message("assistant", "w" * 9))))
    [only] = fitted(sample, 40, overlong).sequences
    assert spelled(only).count('f{"a": "bbbbbbbbb"}') == 1 and len(only) == 40
    with pytest.raises(RowError, match="template's own tokens and the tool calls alone are 26, and cutoff_len is 26: raise it"):
        fitted(sample, 26, overlong)


def test_drop_and_error_and_nothing_to_learn():
    long = dialog(("user", "u" * 50), ("assistant", "a"))
    assert fitted(long, 20, "drop").examples == ()
    with pytest.raises(DataError, match="has 56 tokens, cutoff_len is 20, and overlong is error"):
        fitted(long, 20, "error")
    with pytest.raises(RowError, match="nothing to learn"):
        fitted(dialog(("user", "u")), 20, "truncate_right")


def test_what_cannot_fit_is_refused():
    with pytest.raises(RowError, match="template's own tokens alone are 5, and cutoff_len is 5: raise it"):
        fitted(dialog(("user", "u"), ("assistant", "a")), 5, "truncate_right")


def test_a_text_is_cut_at_either_end_or_into_windows_that_lose_nothing():
    sample = Passage("abcdefgh")
    assert texts(sample, 6, "truncate_right") == ["^abcde"]
    assert texts(sample, 6, "truncate_left") == ["defgh."]
    assert texts(sample, 6, "split") == ["^abcde", "efgh."]
    learned = [label for one in fitted(sample, 6, "split").sequences for label in one.labels.tolist() if label != IGNORE]
    assert learned == PlainObjective(Passage).encode([sample], PlainCodec())[0].sequences[0].labels.tolist()


@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.integers(0, 100), st.integers(0, 20))
def test_level_cut_cuts_what_is_asked_and_never_below_the_floor(lengths, surplus, floor):
    cuts = level_cut(lengths, surplus, floor)
    left = [length - cut for length, cut in zip(lengths, cuts, strict=True)]
    spare = sum(max(length - floor, 0) for length in lengths)
    assert sum(cuts) == min(surplus, spare)
    assert all(cut >= 0 and (not cut or rest >= floor) for cut, rest in zip(cuts, left, strict=True))
    touched = [rest for rest, cut in zip(left, cuts, strict=True) if cut]
    assert not touched or max(left) <= max(touched) + 1 or sum(cuts) == 0
    assert not touched or max(touched) - min(touched) <= 1


@given(st.integers(1, 60), st.integers(2, 20))
def test_windows_learn_every_token_once(length, cutoff_len):
    whole = only(PlainObjective(Passage).encode([Passage("x" * length)], PlainCodec())[0])
    parts = windows(whole, cutoff_len)
    assert all(len(part) <= cutoff_len for part in parts)
    assert sum(part.num_trained for part in parts) == whole.num_trained
    joined = np.concatenate([part.ids[1 if number else 0 :] for number, part in enumerate(parts)])
    assert joined.tolist() == whole.ids.tolist()


roles = st.sampled_from(["system", "user", "assistant", "assistant", "user", "tool"])
said = st.tuples(roles, st.text("abcdef", min_size=1, max_size=30))
talks = st.lists(said, min_size=1, max_size=10)


@settings(max_examples=150, deadline=None)
@given(talks, st.integers(5, 120), st.sampled_from(POLICIES), st.sampled_from(["answers", "last", "all"]))
def test_laws_of_cutting(pairs, cutoff_len, overlong, learn):
    """Never longer than the cutoff; labels are the ids or IGNORE; every message kept has its header and its stop token."""
    try:
        result = fitted(dialog(*pairs), cutoff_len, overlong, learn)
    except RowError as error:
        assert error.reason in ("nothing to learn", "cannot be cut to cutoff_len")
        return
    assert result.sequences
    for one in result.sequences:
        assert len(one) <= cutoff_len and one.num_trained
        assert ((one.labels == one.ids) | (one.labels == IGNORE)).all()
        ids = one.ids.tolist()
        assert ids[0] == BEGIN and ids[-1] == STOP
        assert ids.count(STOP) == sum(ids.count(header) for header in HEADERS.values())
        for place, token in enumerate(ids):
            if token == HEADERS["assistant"] and learn != "last":
                stop = ids.index(STOP, place)
                assert one.labels[stop] == STOP and stop > place + 1  # the answer is not cut to nothing
    if learn == "last":
        assert sum(one.num_trained for one in result.sequences) <= max(len(text) for _, text in pairs) + 1


turn = st.tuples(st.text("ab", min_size=1, max_size=8), st.text("cd", min_size=1, max_size=8))


@settings(max_examples=100, deadline=None)
@given(st.lists(turn, min_size=2, max_size=12), st.integers(24, 60))
def test_split_loses_no_learned_token_where_each_turn_fits(turns, cutoff_len):
    sample = dialog(("system", "s"), *[pair for ask, answer in turns for pair in (("user", ask), ("assistant", answer))])
    whole = PlainObjective().encode([sample], PlainCodec())[0]
    result = fitted(sample, cutoff_len, "split")
    assert not result.truncated
    assert sum(one.num_trained for one in result.sequences) == whole.num_trained
