"""Answers token by token: the events that are heard come to what the whole answer is read as."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hone.chat.codec import build_codec
from hone.chat.dialects.scan import TAG
from hone.chat.dialects.table import DIALECTS
from hone.chat.events import CallMade, TextGrown, ThoughtGrown, parts_of
from hone.chat.message import Conversation, Text, Think, ToolCall, message
from hone.chat.probes import probes
from hone.chat.reading import Reading, same
from hone.config.chat import ChatConfig
from hone.errors import TemplateError
from hone.models.stand_in import stand_in_tokenizer
from tests.chat.conftest import asked, said


def heard(stream, ids, sizes=()):
    """All events of the ids, fed as many at a time as `sizes` tell, then one by one."""
    events, sizes = [], list(sizes)
    while ids:
        size = sizes.pop() if sizes else 1
        events += stream.feed(ids[:size]).events
        ids = ids[size:]
    return events + list(stream.close().events)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_is_heard_as_it_is_read(dialect, made_codec):
    codec, tried = made_codec("chatml", tool_format=dialect), 0
    for probe in probes():
        answer = probe.conversation.messages[-1]
        try:
            ids = codec.encode([probe.conversation], "last")[0].ids.tolist()
        except TemplateError:
            continue  # no place for text beside calls
        prompt = codec.prompt(asked(probe.conversation))
        known = {"tools": probe.conversation.tools, "prompt": prompt}
        events = heard(codec.stream(**known), ids[len(prompt) :])
        assert parts_of(events) == codec.parse(ids[len(prompt) :], **known).parts
        hidden = frozenset(codec.tokenizer.convert_tokens_to_ids(codec.control))
        assert parts_of(heard(codec.stream(hidden=hidden, **known), ids[len(prompt) :])) == parts_of(events)
        made = [(e.call.name, dict(e.call.arguments)) for e in events if isinstance(e, CallMade)]
        assert made == [(part.name, dict(part.arguments)) for part in answer.parts if isinstance(part, ToolCall)]
        tried += bool(made)
    assert tried >= 3


WORDS = st.lists(
    st.sampled_from(
        ["<think>", "</think>", "<tool_call>", "</tool_call>", '\n{"name": "f", "arguments": {"a": "b"}}\n', "<|im_start|>", "\n",
         " ", "\u00e9\U0001f600", "hm", '{"', "<tool"]
    ),
    max_size=12,
)  # fmt: skip


@pytest.mark.parametrize("row", ["qwen3", "qwen", "deepseekr1", "llama2", "glm4"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=WORDS, sizes=st.lists(st.integers(1, 7), max_size=20), cut=st.integers(0, 80))
def test_any_answer_is_heard_as_it_is_read(row, words, sizes, cut, made_codec):
    codec = made_codec(row)
    ids = codec.tokenizer("".join(words), add_special_tokens=False)["input_ids"][: cut or None]
    stream = codec.stream()
    events = heard(stream, ids, sizes)
    read = codec.parse(ids)
    assert (parts_of(events) or (Text(""),)) == read.parts
    assert not any(TAG in event.text for event in events if isinstance(event, TextGrown | ThoughtGrown))


def test_a_thought_that_the_prompt_opened_and_nothing_closes_is_a_thought(made_codec):
    codec = made_codec("deepseekr1")
    ids = codec.tokenizer("hm, let me see", add_special_tokens=False)["input_ids"]
    opened = codec.prompt(said("Hi"))
    closed = codec.prompt(Conversation((*said("Hi", "x").messages, message("tool", "r"))))
    assert codec.parse(ids, prompt=opened).parts == (Think("hm, let me see"),)
    assert codec.parse(ids, prompt=closed).parts == (Text("hm, let me see"),)
    assert parts_of(heard(codec.stream(prompt=closed), ids)) == (Text("hm, let me see"),)


def test_thoughts_have_the_words_of_their_format():
    reading = Reading(DIALECTS["seed_oss"], think_open="<seed:think>", think_close="</seed:think>")
    answer = reading.answer(same)
    said = [*answer.feed("<seed:think>hm</seed:think>\nYes <think>"), *answer.close()]
    assert parts_of(said) == (Think("hm"), Text("Yes <think>"))


def test_hidden_control_tokens_are_no_part_of_text_or_thought_and_are_still_read(made_codec):
    codec = made_codec("qwen3")
    words = '<think>\nh<|im_start|>m\n</think>\n\n<|im_start|>Hi\n<tool_call>\n{"name": "f"}\n</tool_call>\n<tool_call>\nno'
    ids = codec.tokenizer(words, add_special_tokens=False)["input_ids"]
    stream = codec.stream(hidden=frozenset(codec.tokenizer.all_special_ids))
    heards = [*(stream.feed([token]) for token in ids), stream.close()]
    text = "".join(one.text for one in heards)
    assert "<tool_call>" not in text and "<|im_start|>" not in text and '{"name": "f"}' in text
    said = parts_of([event for one in heards for event in one.events])
    assert said == (Think("hm"), Text("Hi"), ToolCall("f", {}), Text("\n"), Text("<tool_call>\nno", malformed=True))


def test_bytes_that_are_no_character_change_none_behind_them():
    """Random bytes, one at a time: what is heard is the text of all, also where a character begins behind four that are none."""
    tokenizer = stand_in_tokenizer("", "<|im_end|>", ["<|im_start|>"])
    codec, chance = build_codec(ChatConfig(template="qwen"), tokenizer), random.Random(0)
    for _ in range(1500):
        ids = [chance.randrange(256) for _ in range(12)]
        stream = codec.text_stream()
        assert "".join(stream.feed([id]).text for id in ids) + stream.close().text == tokenizer.decode(ids)
