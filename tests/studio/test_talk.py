"""A talk to requests, and events to what a reader sees: without a page."""

from __future__ import annotations

import asyncio
import threading
from contextlib import aclosing

import pytest

from hone.chat.events import parts_of
from hone.chat.message import Image, Message, Text, Think, ToolCall, ToolResult
from hone.config.api import ApiConfig
from hone.config.generate import GenerateConfig
from hone.errors import HoneError
from hone.serving.asked import Terms
from hone.serving.desk import Desk, Served
from hone.serving.metrics import Metrics
from hone.serving.turns import Turns
from hone.studio.pieces import Pieces
from hone.studio.talk import Talk
from tests.serving.servers import NAME, Scripted

TOOL = '{"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}'
SCRIPT = (
    "<think>\nHm.\n</think>\n\nI look.\n"
    '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>\n'
    '<tool_call>\n{"name": broken\n</tool_call>'
)


def talk_of(speaker, **limits) -> Talk:
    settings = GenerateConfig(temperature=0.5, top_p=0.9, max_new_tokens=50)
    terms = Terms(settings, ApiConfig(**limits))
    return Talk.begin(Desk(Served(NAME, engine=speaker), terms, Turns(1, terms.limits.api_max_waiting), Metrics()))


def test_what_the_panel_shows_at_first_is_what_the_server_was_started_with(speaker):
    talk = talk_of(speaker, api_max_tokens=20)
    talk.say("Hi")
    request = talk.request()
    settings = request.settings
    assert (settings.temperature, settings.top_p, settings.max_new_tokens, settings.do_sample) == (0.5, 0.9, 20, True)
    assert (request.seed, request.adapter, request.thinks) == (None, "", None)
    assert [(one.role, one.text) for one in request.conversation.messages] == [("user", "Hi")]


def test_every_wish_is_in_the_request(speaker):
    talk = talk_of(speaker)
    talk.say("Hi")
    wishes = talk.wishes
    wishes.model, wishes.system, wishes.tools, wishes.thinks = "law", "Be brief.", TOOL, False
    wishes.temperature, wishes.top_p, wishes.max_new_tokens, wishes.seed = 0, 0.3, 7.0, 11.0
    request = talk.request()
    assert (request.adapter, request.thinks, request.seed) == ("law", False, 11)
    assert (request.settings.do_sample, request.settings.top_p, request.settings.max_new_tokens) == (False, 0.3, 7)
    assert request.conversation.messages[0] == Message("system", (Text("Be brief."),))
    assert request.conversation.tools[0]["function"]["name"] == "get_weather"


@pytest.mark.parametrize(
    ("wish", "value", "said"),
    [
        ("max_new_tokens", 21, "api_max_tokens"),
        ("temperature", 3, "temperature"),
        ("top_p", 0, "top_p"),
        ("tools", "[{", "no JSON"),
        ("tools", '[{"name": "a b"}]', "name"),
        ("model", "none", "there is no model 'none'"),
    ],
)
def test_a_wish_that_breaks_a_limit_is_refused_as_the_api_refuses_it(wish, value, said, speaker):
    talk = talk_of(speaker, api_max_tokens=20)
    talk.say("Hi")
    setattr(talk.wishes, wish, value)
    with pytest.raises(HoneError, match=said):
        talk.request()
    assert talk.take_back() == "Hi" and not talk.messages


def test_files_go_with_the_question_within_the_limits_of_a_request(codec):
    talk = talk_of(Scripted(codec, media=frozenset({"image"})), api_max_media=2, api_max_media_size=0.001)
    first, second = Image(b"a" * 400), Image(b"b" * 400)
    talk.attach(first)
    with pytest.raises(HoneError, match="larger than the 600 bytes that are left"):
        talk.attach(Image(b"c" * 601))
    talk.wishes.system = "Be brief."
    talk.say("What is this?")
    assert not talk.attached
    assert talk.request().conversation.messages[1].parts == (first, Text("What is this?"))
    talk.hear(Message("assistant", (Text("A cat."),)))
    talk.attach(second)
    with pytest.raises(HoneError, match="api_max_media"):
        talk.attach(Image(b""))
    talk.say("")
    assert talk.request().conversation.media == (first, second)
    assert talk.messages[-1].parts == (second,)
    assert talk.take_back() == "" and talk.attached == [second]
    assert [one.role for one in talk.messages] == ["user", "assistant"]


def test_calls_are_answered_one_by_one_and_then_the_model_is_asked(speaker):
    talk = talk_of(speaker)
    talk.say("Weather?")
    calls = ToolCall("a", {"x": 1}, "1"), ToolCall("b", {}, "2")
    talk.hear(Message("assistant", (Think("hm"), *calls)))
    assert talk.open_calls == list(calls)
    talk.say("sun")
    assert talk.open_calls == [calls[1]]
    talk.say("rain")
    assert talk.open_calls == []
    results = [part for one in talk.request().conversation.messages[2:] for part in one.parts]
    assert results == [ToolResult("sun", "a", "1"), ToolResult("rain", "b", "2")]
    talk.hear(Message("assistant", ()))
    talk.say("And now?")
    assert [one.role for one in talk.messages] == ["user", "assistant", "tool", "tool", "assistant", "user"]
    assert talk.take_back() == "And now?"
    talk.again()
    assert talk.messages[-1].role == "tool"


def test_pieces_are_the_parts_of_the_message_however_they_come(codec):
    """A call that breaks is told as text; while it grows it stands as a call."""
    ids = codec.tokenizer.encode(SCRIPT, add_special_tokens=False)
    for step in (1, 7, len(ids)):
        stream, events, pieces = codec.stream(), [], Pieces()
        for start in range(0, len(ids), step):
            heard = stream.feed(ids[start : start + step]).events
            events += heard
            pieces.feed(heard)
        last = stream.close().events
        pieces.feed(last)
        pieces.close()
        parts = parts_of([*events, *last])
        told = [(one.kind, one.name or one.text) for one in pieces.all if one.text or one.name]
        kinds = {Think: "thought", ToolCall: "call"}
        wanted = [
            (kinds.get(type(part), "broken" if isinstance(part, Text) and part.malformed else "text"), getattr(part, "name", ""))
            for part in parts
        ]
        assert [kind for kind, _ in told] == [kind for kind, _ in wanted]
        assert ("call", "get_weather") in told and ("thought", "Hm.") in told
        assert "broken" in dict(told) and all(one.done for one in pieces.all)


def test_the_desk_answers_in_turn_and_counts_what_it_answers(codec):
    gate, speaker = threading.Semaphore(1), Scripted(codec)

    async def answers():
        talk = talk_of(speaker, api_max_waiting=0)
        talk.say("Hi")
        desk, speaker.script = talk.desk, "Hello there."
        told = [delta async for delta in desk.answer(talk.request())]
        while desk.turns.running:  # its thread gives the turn back a moment after the last word
            await asyncio.sleep(0.001)
        speaker.pause = gate.acquire
        async with aclosing(desk.answer(talk.request())) as begun:
            await anext(begun)
            with pytest.raises(HoneError, match="wait already"):
                await anext(desk.answer(talk.request()))
            gate.release(100)  # before it is closed, which waits for the model to see that nobody listens
        return told, desk.metrics.page()

    told, page = asyncio.run(answers())
    assert told[-1].answer.message.text == "Hello there."
    assert f"hone_answer_tokens_total {told[-1].answer.num_tokens}\n" in page
    assert "hone_first_token_seconds_count 2" in page
