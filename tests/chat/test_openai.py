"""OpenAI's JSON read and written: what is accepted, what is refused and in which words."""

from __future__ import annotations

import pytest

from hone.chat.message import Conversation, Message, Text, Think, ToolCall, ToolResult, message
from hone.chat.openai import conversation_from_openai, to_openai
from hone.errors import DataError


def test_every_part_survives_a_round_trip():
    conversation = Conversation(
        (
            message("system", "Be brief."),
            message("user", "Weather?"),
            Message("assistant", (Think("hm"), Text("Looking."), ToolCall("weather", {"city": "Paris", "days": [1, 2]}, "a"))),
            Message("tool", (ToolResult("sunny", "weather", "a"),)),
            message("assistant", ""),
        )
    )
    assert conversation_from_openai(to_openai(conversation)) == conversation


def test_several_results_in_one_message_become_several_messages():
    both = Message("tool", (ToolResult("1", id="a"), ToolResult("2", id="b")))
    assert [item["content"] for item in to_openai(Conversation((both,)))] == ["1", "2"]


def test_arguments_may_be_a_json_string_and_content_a_list():
    call = {"id": "x", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    read = conversation_from_openai(
        [
            {"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": None, "tool_calls": [call], "weight": 0},
        ]
    )
    assert read.messages == (message("system", "ab"), Message("assistant", (ToolCall("f", {"a": 1}, "x"),), False))


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ("hi", "messages must be a list"),
        ([3], r"messages\[0\] must be an object"),
        ([{"content": "x"}], r'messages\[0\] has no "role"; it has content'),
        ([{"role": "usr", "content": "x"}], r'did you mean "user"'),
        ([{"role": "user"}], r'has no "content"'),
        ([{"role": "user", "content": None}], r"content is null"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], r"'image_url' parts are not supported"),
        ([{"role": "user", "content": "x", "train": "yes"}], r"train must be true or false"),
        ([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}], r"arguments is not JSON"),
        ([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]}], r"must be a JSON object"),
        ([{"role": "user", "content": "", "tool_calls": [{"name": "f"}]}], r"only an assistant can have tool_calls"),
    ],
)
def test_what_is_wrong_is_named(messages, words):
    with pytest.raises(DataError, match=words):
        conversation_from_openai(messages)
