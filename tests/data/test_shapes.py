"""Tests of the shapes: what each kind of row means, and every way in which a row is refused."""

from __future__ import annotations

import json

import pytest

from hone.chat.message import Message, Text, Think, ToolCall, ToolResult, message
from hone.data.catalog import load_catalog
from hone.data.columns import RowError
from hone.data.guess import guess_spec
from hone.data.sample import Dialog, Passage
from hone.data.shapes import check_usable, to_sample
from hone.data.sharegpt import read_calls
from hone.errors import DataError

LLAMAFACTORY_TAGS = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}


def spec(**entry):
    return load_catalog({"toy": {"file_name": "x.json", **entry}}).find("toy")


def dialog(row, **entry):
    return to_sample(row, spec(**entry), Dialog).conversation


def refusal(row, wanted=Dialog, **entry) -> RowError:
    with pytest.raises(RowError) as caught:
        to_sample(row, spec(**entry), wanted)
    return caught.value


def said(*pairs):
    return [{"from": role, "value": text} for role, text in pairs]


def test_alpaca_joins_prompt_and_query():
    talk = dialog({"instruction": "Add.", "input": "1 2", "output": "3"})
    assert talk.messages == (message("user", "Add.\n1 2"), message("assistant", "3"))
    assert dialog({"instruction": "Hi", "input": "", "output": "3"}).messages[0] == message("user", "Hi")
    assert dialog({"instruction": "Hi", "input": None, "output": "3"}).messages[0] == message("user", "Hi")


def test_alpaca_with_system_history_and_tools():
    columns = {"prompt": "q", "response": "a", "system": "s", "history": "h", "tools": "t"}
    row = {
        "q": "two",
        "a": "2",
        "s": "Count.",
        "h": [["zero", "0"], ["one", "1"]],
        "t": '[{"name": "add"}]',
        "input": "not a column",
    }
    talk = dialog(row, columns=columns)
    texts = [(one.role, one.text) for one in talk.messages]
    asked = [("user", "zero"), ("assistant", "0"), ("user", "one"), ("assistant", "1"), ("user", "two"), ("assistant", "2")]
    assert texts == [("system", "Count."), *asked]
    assert talk.tools == ({"name": "add"},)


def test_alpaca_rows_that_are_refused():
    assert refusal({"instruction": "Hi", "input": "", "output": " \n"}).reason == "empty answer"
    assert refusal({"instruction": "Hi", "output": None}).reason == "empty answer"
    error = refusal({"question": "Hi", "answer": "Ho"})
    assert error.reason == 'no column "output"' and "question, answer" in error.detail
    assert refusal({"question": "Hi", "output": "Ho"}).reason == 'no column "instruction" or "input"'
    assert refusal({"instruction": "Hi", "output": 5}).reason == 'column "output" is not text'
    history = {"columns": {"prompt": "q", "response": "a", "history": "h"}}
    assert "history is not a list of" in refusal({"q": "x", "a": "y", "h": [["only one"]]}, **history).reason


def test_a_thought_that_opens_an_answer_is_a_think():
    def parts(text):
        return dialog({"instruction": "Hi", "output": text}).messages[-1].parts

    assert parts("<think>\nhm\n</think>\n\nHo") == (Think("hm"), Text("Ho"))
    assert parts("<think>\n\n</think>\n\nHo") == (Text("Ho"),)
    assert parts("I <think>hm</think>") == (Text("I <think>hm</think>"),)
    assert refusal({"instruction": "Hi", "output": "<think></think>"}).reason == "empty answer"


def test_sharegpt_roles_in_any_order():
    talk = dialog(
        {"conversations": said(("system", "S"), ("gpt", "Hello"), ("human", "a"), ("human", "b"), ("gpt", "c"), ("gpt", "d"))},
        formatting="sharegpt",
    )
    assert [(one.role, one.text) for one in talk.messages] == [
        ("system", "S"), ("assistant", "Hello"), ("user", "a"), ("user", "b"), ("assistant", "c"), ("assistant", "d"),
    ]  # fmt: skip


def test_sharegpt_calls_and_results():
    call = '<think>\nlook\n</think>\n\n{"name": "add", "arguments": {"a": 1}}'
    several = '[{"name": "f", "arguments": {}}, {"name": "g", "arguments": "{\\"b\\": 2}"}]'
    wrapped = '<tool_call>\n{"name": "h", "arguments": {}}\n</tool_call>\n<tool_call>{"name": "i", "arguments": {}}</tool_call>'
    calls = [("function_call", call), ("observation", "1"), ("function_call", several), ("function_call", wrapped)]
    rows = said(("human", "q"), *calls, ("gpt", "a"))
    talk = dialog(
        {"conversations": rows, "tools": [{"name": "add"}]},
        formatting="sharegpt",
        columns={"messages": "conversations", "tools": "tools"},
    )
    assert [one.parts for one in talk.messages[1:5]] == [
        (Think("look"), ToolCall("add", {"a": 1})), (ToolResult("1"),), (ToolCall("f", {}), ToolCall("g", {"b": 2})),
        (ToolCall("h", {}), ToolCall("i", {})),
    ]  # fmt: skip
    assert [one.role for one in talk.messages] == ["user", "assistant", "tool", "assistant", "assistant", "assistant"]
    assert talk.tools == ({"name": "add"},)


def test_a_system_message_wins_over_the_system_column():
    entry = {"formatting": "sharegpt", "columns": {"messages": "conversations", "system": "system"}}
    row = {"conversations": said(("human", "q"), ("gpt", "a")), "system": "column"}
    assert dialog(row, **entry).messages[0] == message("system", "column")
    row["conversations"].insert(0, {"from": "system", "value": "message"})
    assert [one.text for one in dialog(row, **entry).messages] == ["message", "q", "a"]


def test_a_message_may_say_whether_it_is_learned():
    rows = [*said(("human", "q")), {"from": "gpt", "value": "a", "train": False}, {"from": "gpt", "value": "b", "weight": 1}]
    assert [one.train for one in dialog({"conversations": rows}, formatting="sharegpt").messages] == [None, False, True]
    rows[1]["train"] = "no"
    assert "train is not True or False" in refusal({"conversations": rows}, formatting="sharegpt").reason
    rows = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "weight": 0}]
    assert dialog({"messages": rows}, formatting="openai").messages[1].train is False


def test_tags_that_name_no_observation_make_that_role_unknown():
    rows = [{"role": role, "content": "x"} for role in ("user", "observation", "assistant")]
    entry = {"formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": LLAMAFACTORY_TAGS}
    error = refusal({"messages": rows}, **entry)
    assert error.reason == "unknown role 'observation'" and "known: user, assistant" in error.detail


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (said(("human", "q")), "no assistant message"),
        (said(("human", "q"), ("gtp", "a")), "unknown role 'gtp' (did you mean \"gpt\"?)"),
        (said(("human", "q"), ("gpt", "")), "empty answer"),
        (said(("human", None), ("gpt", "a")), "a message's content is not text"),
        (said(("human", "q"), ("function_call", "add(1)")), "a function call is not JSON"),
        (said(("human", "q"), ("function_call", '{"nome": "add"}')), "a function call names no function"),
        (
            said(("human", "q"), ("function_call", '{"name": "add", "arguments": [1]}')),
            "a function call's arguments are not an object",
        ),
        ([{"role": "user", "content": "q"}], 'a message has no "from" and "value"'),
        (["q"], "a message is not an object"),
        (7, 'column "conversations" is not a list'),
    ],
)
def test_sharegpt_rows_that_are_refused(rows, reason):
    assert refusal({"conversations": rows}, formatting="sharegpt").reason == reason


def test_openai_messages_and_tools_need_no_columns():
    call = {"type": "function", "id": "c1", "function": {"name": "add", "arguments": '{"a": 1}'}}
    row = {
        "messages": [
            {"role": "developer", "content": "S"}, {"role": "user", "content": [{"type": "text", "text": "q"}]},
            {"role": "assistant", "content": None, "tool_calls": [call]}, {"role": "tool", "content": "2", "tool_call_id": "c1"},
            {"role": "assistant", "content": "<think>so</think>a"},
        ],
        "tools": [{"type": "function", "function": {"name": "add"}}],
    }  # fmt: skip
    talk = dialog(row, formatting="openai")
    assert [one.role for one in talk.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert talk.messages[2].parts == (ToolCall("add", {"a": 1}, "c1"),)
    assert talk.messages[4] == Message("assistant", (Think("so"), Text("a")))
    assert talk.tools == tuple(row["tools"])  # and no words about thinking are added to the system prompt


def test_openai_with_names_of_its_own():
    tags = {
        "role_tag": "who",
        "content_tag": "text",
        "user_tag": "me",
        "assistant_tag": "bot",
        "function_tag": "call",
        "observation_tag": "back",
    }
    rows = [("me", "q"), ("call", '{"name": "f", "arguments": {}}'), ("back", "1"), ("bot", "a")]
    row = {"talk": [{"who": who, "text": text} for who, text in rows]}
    talk = dialog(row, formatting="openai", columns={"messages": "talk"}, tags=tags)
    assert [one.role for one in talk.messages] == ["user", "assistant", "tool", "assistant"]
    assert talk.messages[1].parts == (ToolCall("f", {}),)


def test_openai_rows_of_one_mistake_count_together():
    first = refusal({"messages": [{"role": "user", "content": "q"}, {"role": "asistant", "content": "a"}]}, formatting="openai")
    second = refusal({"messages": [{"role": "asistant", "content": "a"}]}, formatting="openai")
    assert first.reason == second.reason and "asistant" in first.reason
    assert "messages[1]" in first.detail and "messages[0]" in second.detail


def test_a_passage_is_the_first_message():
    text = {"columns": {"prompt": "text"}}
    assert to_sample({"text": "Once"}, spec(**text), Passage) == Passage("Once")
    assert to_sample({"instruction": "a", "input": "b", "output": "c"}, spec(), Passage) == Passage("a\nb")
    rows = said(("system", "s"), ("human", "q"), ("gpt", "a"))
    assert to_sample({"conversations": rows}, spec(formatting="sharegpt"), Passage) == Passage("q")
    assert refusal({"text": " "}, Passage, **text).reason == "empty text"
    assert refusal({"text": "Once"}, Passage).reason == 'no column "instruction" or "input"'


def test_rows_with_media_are_refused_where_a_stage_learns_from_text_alone():
    entry = {"columns": {"prompt": "q", "response": "a", "images": "pictures"}}
    assert refusal({"q": "x", "a": "y", "pictures": ["1.jpg"]}, Passage, **entry).reason == "it has images"
    assert dialog({"q": "x", "a": "y", "pictures": []}, **entry).messages[1].text == "y"


def test_preference_sets_are_refused_by_name():
    for entry in ({"ranking": True}, {"columns": {"prompt": "q", "response": "a", "kto_tag": "good"}}):
        with pytest.raises(DataError, match='data set "toy" holds .* cannot learn from'):  # noqa: RUF043
            check_usable(spec(**entry), Dialog)
    check_usable(spec(), Dialog)


@pytest.mark.parametrize(
    ("row", "shape", "expected"),
    [
        ({"instruction": "q", "input": "", "output": "a"}, "alpaca", "a"),
        ({"instruction": "q", "input": "", "response": "a"}, "alpaca", "a"),
        ({"question": "q", "answer": "a"}, "alpaca", "a"),
        ({"conversations": said(("human", "q"), ("gpt", "a"))}, "sharegpt", "a"),
        ({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}, "openai", "a"),
        ({"conversations": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}, "openai", "a"),
    ],
)
def test_a_plain_file_shows_its_shape(tmp_path, row, shape, expected):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row))
    found = guess_spec(str(path))
    assert found.shape == shape
    assert to_sample(row, found, Dialog).conversation.messages[-1].text == expected


def test_a_plain_file_that_could_be_read_in_two_ways_is_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"instruction": "q", "output": "a", "response": "b"}))
    with pytest.raises(DataError, match="fits several shapes"):
        guess_spec(str(path))
    path.write_text(json.dumps({"a": 1}))
    with pytest.raises(DataError, match=r"first row \(a\) fits no shape"):
        guess_spec(str(path))


@pytest.mark.parametrize("beyond", ["[" * 100_000, "9" * 5000], ids=["deep", "long"])
def test_json_text_beyond_reading_is_the_rows_problem(beyond):
    with pytest.raises(RowError, match="a function call is more than can be read"):
        read_calls(f'{{"name": "f", "arguments": {{"a": {beyond}}}}}')
