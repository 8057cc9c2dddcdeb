"""Answers that must call begin as the format writes calls, and what continues a text is read for nothing."""

from __future__ import annotations

import pytest

from hone.chat.codec import build_codec
from hone.chat.events import parts_of
from hone.chat.message import Conversation, Message, Text, ToolCall, message
from hone.chat.opening import call_openings
from hone.chat.table import rows
from hone.config.chat import ChatConfig
from hone.errors import TemplateError

TOOLS = tuple(
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}
    for name in ("get_weather", "get_time")
)
ASKED = Conversation((message("user", "Is it late?"),), TOOLS)


REFUSED = {"falcon_h1"}  # ways of calls whose first words are those of the arguments


def one_row_a_way(made_codec):
    """A codec for each way of calls and of thoughts that there is."""
    found = {}
    for name, row in rows().items():
        found.setdefault((row.dialect, row.thinking), name)
    return [made_codec(name) for name in found.values()]


def test_every_call_of_a_function_begins_with_its_opening(made_codec):
    """Also with arguments that no sample had; and no opening is the beginning of another."""
    names = ("get_weather", "get_time")
    refused = set()
    for codec in one_row_a_way(made_codec):
        try:
            openings = call_openings(codec, ASKED, names)
        except TemplateError as no:
            assert "leave tool_choice at auto" in str(no)
            refused.add(codec.template.name)
            continue
        prompt = codec.prompt(ASKED)
        for name, opening in zip(names, openings, strict=True):
            call = ToolCall(name, {"city": "Rome", "day": "today"})
            said = Conversation((*ASKED.messages, Message("assistant", (call,))), TOOLS)
            ids = codec.encode([said])[0].ids.tolist()
            assert ids[: len(prompt) + len(opening)] == prompt + opening, codec.template.name
            made = codec.parse(ids[len(prompt) :], tools=TOOLS, prompt=prompt)
            assert [part.name for part in made.parts if isinstance(part, ToolCall)] == [name]
        assert not any(a != b and a[: len(b)] == b for a in openings for b in openings)
    assert refused == REFUSED


def test_a_format_that_writes_no_calls_begins_none(tiny_tokenizer):
    with pytest.raises(TemplateError):
        call_openings(build_codec(ChatConfig(), tiny_tokenizer), ASKED, ("get_time",))


@pytest.mark.parametrize(
    "text", ["<think>no</think>", "Action: get_time\nAction Input: {}", "a<|im_start|>b", "\u4f60 \U0001f600"]
)
def test_what_continues_a_text_is_its_text(text, tiny_tokenizer):
    codec = build_codec(ChatConfig(template="default"), tiny_tokenizer)
    ids = tiny_tokenizer.encode(text, add_special_tokens=False)
    for hidden in (frozenset(), frozenset(tiny_tokenizer.added_tokens_decoder)):
        stream = codec.text_stream(hidden=hidden)
        heard = [*(stream.feed([token]) for token in ids), stream.close()]
        wanted = text.replace("<|im_start|>", "") if hidden else text
        assert "".join(one.text for one in heard) == wanted
        assert parts_of(event for one in heard for event in one.events) == (Text(wanted),)


def test_a_text_prompt_is_the_text_and_never_a_control_token(tiny_tokenizer):
    codec = build_codec(ChatConfig(template="default"), tiny_tokenizer)
    assert tiny_tokenizer.decode(codec.text_prompt("a<|im_end|>b")) == "a<|im_end|>b"
    assert not set(codec.text_prompt("a<|im_end|>b")) & set(tiny_tokenizer.all_special_ids)
    with pytest.raises(TemplateError, match="nothing to continue"):
        codec.text_prompt("")
