"""Pairs, rated answers and tasks: read from every shape, refused with the reason, cut with one and the same question.

Does not know any loss.
"""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hone.chat.message import Conversation, message
from hone.data.catalog import OPENAI_TAGS, Columns, DatasetSpec
from hone.data.columns import RowError
from hone.data.guess import guess_spec
from hone.data.overlong import fit
from hone.data.sample import Dialog, Pair, Rated, Task
from hone.data.shapes import check_usable, to_sample
from hone.errors import DataError
from tests.data.plain import STOP, PlainCodec, PlainObjective, spelled

ALPACA = DatasetSpec("toy", "file", "", columns=Columns(chosen="chosen", rejected="rejected"), ranking=True)
SHAREGPT = DatasetSpec(
    "toy", "file", "", "sharegpt", Columns(messages="conversations", chosen="chosen", rejected="rejected"), ranking=True
)
OPENAI = DatasetSpec(
    "toy", "file", "", "openai", Columns(messages="messages", chosen="chosen", rejected="rejected"), OPENAI_TAGS, ranking=True
)
KTO = DatasetSpec("toy", "file", "", columns=Columns(kto_tag="label"))


def talk(*said: tuple[str, str]) -> Conversation:
    return Conversation(tuple(message(role, text) for role, text in said))


PAIR = Pair(talk(("user", "2+2?"), ("assistant", "4")), talk(("user", "2+2?"), ("assistant", "5")))


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "2+2?", "chosen": "4", "rejected": "5"},
        {"instruction": "2+2?", "input": "", "output": "4", "chosen": "4", "rejected": "5"},
        {
            "conversations": [{"from": "human", "value": "2+2?"}],
            "chosen": {"from": "gpt", "value": "4"},
            "rejected": {"from": "gpt", "value": "5"},
        },
        {
            "prompt": "2+2?",
            "chosen": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}],
            "rejected": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "5"}],
        },
    ],
)
def test_a_plain_file_of_pairs_is_read_as_such_and_refused_for_answers(tmp_path, row):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row))
    assert to_sample(row, guess_spec(str(path), Pair), Pair) == PAIR
    single = guess_spec(str(path), Dialog)
    if "output" in row:
        return check_usable(single, Dialog)
    with pytest.raises(DataError, match=r"holds pairs .*\(columns chosen and rejected\).*stage: dpo"):
        check_usable(single, Dialog)


@pytest.mark.parametrize(
    ("spec", "row"),
    [
        (ALPACA, {"instruction": "2+2?", "input": "", "chosen": "4", "rejected": "5"}),
        (
            SHAREGPT,
            {
                "conversations": [{"from": "human", "value": "2+2?"}],
                "chosen": {"from": "gpt", "value": "4"},
                "rejected": {"from": "gpt", "value": "5"},
            },
        ),
        (
            OPENAI,
            {
                "messages": [{"role": "user", "content": "2+2?"}],
                "chosen": {"role": "assistant", "content": "4"},
                "rejected": {"role": "assistant", "content": "5"},
            },
        ),
        (
            OPENAI,
            {
                "chosen": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}],
                "rejected": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "5"}],
            },
        ),
    ],
    ids=["alpaca", "sharegpt", "openai", "whole lists"],
)
def test_pairs_of_every_shape(spec, row):
    assert to_sample(row, spec, Pair) == PAIR


@pytest.mark.parametrize(
    ("spec", "row", "why"),
    [
        (ALPACA, {"instruction": "a", "chosen": "x", "rejected": "x"}, "are equal.*both read 'x'"),
        (ALPACA, {"instruction": "a", "chosen": "x"}, 'no column "rejected"'),
        (ALPACA, {"instruction": "a", "chosen": "x", "rejected": ""}, "empty answer"),
        (ALPACA, {"instruction": "a", "chosen": "x", "rejected": 3}, "rejected is not an answer: seen int"),
        (
            SHAREGPT,
            {
                "conversations": [{"from": "human", "value": "a"}],
                "chosen": {"from": "human", "value": "4"},
                "rejected": {"from": "gpt", "value": "5"},
            },
            "chosen is not an assistant's message",
        ),
        (
            OPENAI,
            {
                "chosen": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "4"}],
                "rejected": [{"role": "user", "content": "b"}, {"role": "assistant", "content": "5"}],
            },
            "to different questions",
        ),
    ],
)
def test_pairs_that_cannot_be_used(spec, row, why):
    with pytest.raises(RowError, match=why):
        to_sample(row, spec, Pair)


def test_rated_answers():
    row = {"instruction": "2+2?", "output": "4", "label": True}
    assert to_sample(row, KTO, Rated) == Rated(PAIR.chosen, True)
    with pytest.raises(RowError, match="is not true or false: seen 'yes'"):
        to_sample({**row, "label": "yes"}, KTO, Rated)
    with pytest.raises(RowError, match='no column "label"'):
        to_sample({"instruction": "a", "output": "4"}, KTO, Rated)


def test_tasks_keep_the_reference_and_the_other_columns():
    row = {"instruction": "2+2?", "output": "#### 4", "level": 3}
    assert to_sample(row, DatasetSpec("toy", "file", ""), Task) == Task(talk(("user", "2+2?")), "#### 4", {"level": 3})
    without = DatasetSpec("toy", "file", "", columns=Columns(response=None))
    assert to_sample({"instruction": "2+2?"}, without, Task) == Task(talk(("user", "2+2?")))
    said = [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]
    assert to_sample({"conversations": said}, SHAREGPT, Task) == Task(talk(("user", "2+2?")), "4")


@pytest.mark.parametrize(
    ("spec", "wanted", "why"),
    [
        (ALPACA, Dialog, "holds pairs .*stage: sft.* stage: dpo, rm"),
        (ALPACA, Rated, "holds pairs .*stage: kto"),
        (KTO, Dialog, "holds answers rated good or bad .* or stage: kto"),
        (KTO, Pair, "holds answers rated good or bad .*stage: dpo"),
        (DatasetSpec("toy", "file", ""), Pair, 'holds single answers.*"ranking": true'),
        (DatasetSpec("toy", "file", ""), Rated, 'does not say which answers are good.*"kto_tag": NAME'),
    ],
)
def test_a_set_of_another_kind_is_refused(spec, wanted, why):
    with pytest.raises(DataError, match=why):
        check_usable(spec, wanted)


words = st.text("abcdef", min_size=1, max_size=40)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(words, words), max_size=3), words, words, words, st.integers(8, 90), st.booleans())
def test_both_sides_are_cut_to_the_same_question(before, question, first, second, cutoff, left):
    head = [said for ask, reply in before for said in (("user", ask), ("assistant", reply))]
    sides = [talk(*head, ("user", question), ("assistant", said)) for said in (first, second)]
    pair, objective, codec = Pair(*sides), PlainObjective(Pair), PlainCodec()
    encode = lambda sample: objective.encode([sample], codec)[0]  # noqa: E731
    overlong = "truncate_left" if left else "truncate_right"
    try:
        [example] = fit(pair, encode(pair), cutoff_len=cutoff, overlong=overlong, encode=encode).examples
    except RowError as error:
        assert error.reason == "cannot be cut to cutoff_len"
        return
    texts = [spelled(one) for one in example.sequences]
    assert max(map(len, texts)) <= cutoff
    questions = {text.rpartition("A")[0] for text in texts}
    assert len(questions) == 1, texts
    for text, said, sequence in zip(texts, (first, second), example.sequences, strict=True):
        answer = text.rpartition("A")[2]
        assert said.startswith(answer[:-1]) and len(answer) > 1
        assert sequence.labels[-1] == STOP and sequence.num_trained == len(answer)
