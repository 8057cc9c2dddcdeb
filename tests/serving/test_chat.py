"""The openai client against a live server: answers whole and streamed, ended, steered and counted as OpenAI says.

What is checked of a random model is a law (the same seed, the same answer); what is checked of words is said by a script.
"""

from __future__ import annotations

import json
import math
import threading

import openai
import pytest
import torch

from hone.chat.message import Conversation, message
from hone.inference.together import TogetherEngine
from hone.serving.answers import LOWEST
from hone.serving.desk import Served
from hone.serving.shapes import Cards, ChatCompletion, Completion
from tests.serving.servers import NAME, live

ASK = [{"role": "user", "content": "What is the capital of France?"}]
TOOLS = [
    {
        "type": "function",
        "function": {"name": name, "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
    }
    for name in ("get_weather", "get_time")
]
CALLS = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'


def chat(server, **asked):
    return server.client.chat.completions.create(**{"model": NAME, "messages": ASK, **asked})


def streamed(server, **asked):
    """The text, the finish reasons by choice, and all chunks of a stream."""
    chunks = list(chat(server, stream=True, **asked))
    texts: dict[int, str] = {}
    finish: dict[int, str] = {}
    for choice in (choice for chunk in chunks for choice in chunk.choices):
        texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
        if choice.finish_reason:
            finish[choice.index] = choice.finish_reason
    return texts, finish, chunks


def test_a_whole_answer_and_its_tokens(told, speaker, codec):
    speaker.script = "Paris. \u4f60\u597d \U0001f600"
    answer = chat(told)
    assert answer.choices[0].message.content == speaker.script and answer.choices[0].finish_reason == "stop"
    num_prompt = len(codec.prompt(Conversation((message("user", ASK[0]["content"]),))))
    num_drawn = len(codec.tokenizer.encode(speaker.script, add_special_tokens=False)) + 1
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (num_prompt, num_drawn)
    assert answer.usage.total_tokens == num_prompt + num_drawn and answer.object == "chat.completion"


def test_a_stream_is_the_whole_answer_in_pieces(told, speaker):
    speaker.script = "Paris. \u4f60\u597d \U0001f600"
    texts, finish, chunks = streamed(told, stream_options={"include_usage": True})
    assert texts == {0: speaker.script} and finish == {0: "stop"}
    assert chunks[0].choices[0].delta.role == "assistant" and len({chunk.id for chunk in chunks}) == 1
    assert chunks[-1].choices == [] and chunks[-1].usage == chat(told).usage and chunks[0].usage is None
    assert "usage" not in json.loads(next(iter_events(told, stream=True)))


def iter_events(server, **asked):
    """The data of each server-sent event."""
    body = {"model": NAME, "messages": ASK, **asked}
    text = server.http.post("/v1/chat/completions", json=body).text
    assert text.endswith("data: [DONE]\n\n")
    return (line.removeprefix("data: ") for line in text.split("\n\n")[:-2])


@pytest.mark.parametrize("key", ["max_tokens", "max_completion_tokens"])
def test_a_length_that_is_reached_is_told(told, speaker, key):
    speaker.script = "one two three four five six"
    answer = chat(told, **{key: 3})
    assert answer.choices[0].finish_reason == "length" and answer.usage.completion_tokens == 3
    assert streamed(told, **{key: 3})[1] == {0: "length"}


@pytest.mark.parametrize("stop", ["ca", ["zz", "capital of"], [" is the c", "capital"], "\n", "hat"])
def test_a_stop_text_ends_the_answer_before_itself_and_stops_the_model(told, speaker, stop):
    said = "What is the capital of France? The\ncapital of France is Paris."
    speaker.script, speaker.num_drawn = said, 0
    words = [stop] if isinstance(stop, str) else stop
    first = min((said.find(word) + len(word), said.find(word)) for word in words if word in said)[1]
    answer = chat(told, stop=stop)
    assert answer.choices[0].message.content == said[:first] and answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens == speaker.num_drawn < len(speaker.codec.tokenizer.encode(said))
    assert streamed(told, stop=stop)[:2] == ({0: said[:first]}, {0: "stop"})


def test_what_only_begins_like_a_stop_text_is_said(told, speaker):
    speaker.script = "a capital of Fran"
    assert chat(told, stop=["capital of France", "Frank"]).choices[0].message.content == speaker.script


def test_thoughts_are_told_apart(told, speaker):
    speaker.script = "<think>\nsum of 2, 3\n</think>\n\nFive."
    answer = chat(told, stop=["2"])  # thoughts do not end an answer
    assert answer.choices[0].message.content == "Five." and answer.choices[0].message.reasoning_content == "sum of 2, 3"
    _, _, chunks = streamed(told)
    assert "".join(getattr(chunk.choices[0].delta, "reasoning_content", "") for chunk in chunks) == "sum of 2, 3"


def test_calls_whole_and_streamed(told, speaker):
    speaker.script = f"Let me see.\n{CALLS}\n{CALLS.replace('weather', 'time')}"
    answer = chat(told, tools=TOOLS).choices[0]
    assert answer.finish_reason == "tool_calls" and answer.message.content == "Let me see."
    assert [call.function.name for call in answer.message.tool_calls] == ["get_weather", "get_time"]
    assert all(json.loads(call.function.arguments) == {"city": "Paris"} for call in answer.message.tool_calls)
    assert len({call.id for call in answer.message.tool_calls}) == 2
    texts, finish, chunks = streamed(told, tools=TOOLS)
    parts = [call for chunk in chunks for choice in chunk.choices for call in choice.delta.tool_calls or ()]
    arguments = {index: "".join(part.function.arguments for part in parts if part.index == index) for index in (0, 1)}
    assert texts == {0: "Let me see."} and finish == {0: "tool_calls"}
    assert [(part.index, part.function.name) for part in parts if part.id] == [(0, "get_weather"), (1, "get_time")]
    assert [json.loads(text) for text in arguments.values()] == [{"city": "Paris"}] * 2
    assert len(parts) > 6, "arguments come in pieces"


def test_one_call_alone_where_several_at_once_are_not_wanted(told, speaker):
    speaker.script = f"{CALLS}\n{CALLS}"
    answer = chat(told, tools=TOOLS, parallel_tool_calls=False)
    assert len(answer.choices[0].message.tool_calls) == 1 and answer.choices[0].finish_reason == "tool_calls"


def test_a_call_that_breaks_off_is_no_call(told, speaker):
    speaker.script = '<tool_call>\n{"name": "get_weather", "arguments": {"city": '
    answer = chat(told, tools=TOOLS).choices[0]
    assert answer.finish_reason == "stop" and not answer.message.tool_calls and "get_weather" in answer.message.content


def test_an_answer_can_be_handed_back(told, speaker):
    speaker.script = CALLS
    made = chat(told, tools=TOOLS).choices[0].message
    result = {"role": "tool", "tool_call_id": made.tool_calls[0].id, "content": "rain"}
    speaker.script = "It rains."
    answer = chat(told, tools=TOOLS, messages=[{"role": "developer", "content": "Be kind."}, *ASK, made.model_dump(), result])
    assert answer.choices[0].message.content == "It rains."
    roles = [one.role for one in speaker.asked[-1].conversation.messages]
    assert roles == ["system", "user", "assistant", "tool"]


def test_tools_are_not_offered_where_no_call_is_wanted(told, speaker):
    speaker.script = "Hi."
    chat(told, tools=TOOLS, tool_choice="none")
    assert speaker.asked[-1].conversation.tools == ()


def test_a_seed_repeats_and_choices_are_those_of_the_next_seeds(tiny):
    several = chat(tiny, n=3, seed=7, temperature=2.0, top_p=1, max_tokens=8)
    alone = [chat(tiny, seed=7 + i, temperature=2.0, top_p=1, max_tokens=8).choices[0].message.content for i in range(3)]
    assert [choice.message.content for choice in several.choices] == alone and len(set(alone)) == 3
    assert [choice.index for choice in several.choices] == [0, 1, 2]
    texts, finish, _ = streamed(tiny, n=3, seed=7, temperature=2.0, top_p=1, max_tokens=8)
    assert list(texts.values()) == alone and set(finish) == {0, 1, 2}
    one = chat(tiny, seed=7, max_tokens=8).usage
    assert several.usage.prompt_tokens == one.prompt_tokens, "a prompt is read once"


def test_temperature_zero_is_the_likeliest_token(tiny):
    first = chat(tiny, temperature=0, max_tokens=6, logprobs=True, top_logprobs=2)
    assert (
        chat(tiny, extra_body={"top_k": 1}, seed=1, max_tokens=6).choices[0].message.content == first.choices[0].message.content
    )
    for token in first.choices[0].logprobs.content:
        assert token.token == token.top_logprobs[0].token and token.logprob == token.top_logprobs[0].logprob


def test_logprobs_are_the_models_own(tiny, engine, codec):
    """Against a plain forward pass over prompt and answer; 1e-4 is for the cache's other order of sums."""
    asked = {"seed": 3, "max_tokens": 6, "temperature": 1.5, "presence_penalty": 1, "logit_bias": {"90": 3}}
    told = chat(tiny, logprobs=True, top_logprobs=3, **asked).choices[0]
    texts, _, chunks = streamed(tiny, logprobs=True, top_logprobs=3, **asked)
    pieces = [token for chunk in chunks for choice in chunk.choices if choice.logprobs for token in choice.logprobs.content]
    assert pieces == told.logprobs.content and texts[0] == told.message.content
    prompt = codec.prompt(Conversation((message("user", ASK[0]["content"]),)))
    ids: list[int] = []
    for token in pieces:
        with torch.inference_mode():
            logprobs = engine.module(torch.tensor([prompt + ids])).logits[0, -1].log_softmax(-1)
        ids.append(int((logprobs - token.logprob).abs().argmin()))
        assert codec.text_of([ids[-1]]) == token.token
        assert logprobs[ids[-1]].item() == pytest.approx(token.logprob, abs=1e-4)
        assert [one.logprob for one in token.top_logprobs] == pytest.approx(logprobs.topk(3).values.tolist(), abs=1e-4)
    assert len(ids) == 6


def test_tokens_of_a_stop_text_are_not_told(tiny, codec):
    (a,), (b,) = (codec.tokenizer.encode(letter, add_special_tokens=False) for letter in "ab")
    say = {"logit_bias": {str(a): 51, str(b): 50}, "presence_penalty": 2, "temperature": 0, "max_tokens": 6, "logprobs": True}
    for stop, left in ((["cc"], "abaaaa"), (["baa"], "a"), (["ab"], ""), (["aaaab"], "abaaaa")):
        cut = chat(tiny, **say, stop=stop).choices[0]
        _, _, chunks = streamed(tiny, **say, stop=stop)
        pieces = [token for chunk in chunks for one in chunk.choices if one.logprobs for token in one.logprobs.content]
        assert cut.message.content == left and [token.token for token in pieces] == list(left)
        assert cut.logprobs.content == pieces


def test_a_bias_decides(tiny, codec):
    (a,) = codec.tokenizer.encode("a", add_special_tokens=False)
    assert chat(tiny, logit_bias={str(a): 100}, max_tokens=4, temperature=1).choices[0].message.content == "aaaa"
    with pytest.raises(openai.BadRequestError, match="there is no token 99999"):
        chat(tiny, logit_bias={"99999": 1})


def test_penalties_are_those_of_openais_formula(tiny, codec):
    """Two ids are raised above all others, `a` a little above `b`: how often `a` comes first follows from the numbers."""
    (a,), (b,) = (codec.tokenizer.encode(letter, add_special_tokens=False) for letter in "ab")
    bias = {str(a): 51.0, str(b): 50.0}  # the random model's own logits differ by far less than 1
    say = {"logit_bias": bias, "temperature": 0, "max_tokens": 6}

    def said(**penalties):
        return chat(tiny, **say, **penalties).choices[0].message.content

    assert said() == "aaaaaa"
    assert said(presence_penalty=2) == "abaaaa", "-2 once for each: a is at 49, b at 50, and then both are 2 lower for good"
    assert said(frequency_penalty=0.6) == "aabaab"[:2] + said(frequency_penalty=0.6)[2:]
    counts = {"a": 0, "b": 0}
    for letter in said(frequency_penalty=2):
        scores = {"a": 51 - 2 * counts["a"], "b": 50 - 2 * counts["b"]}
        assert letter == max(scores, key=scores.get)
        counts[letter] += 1
    assert said(presence_penalty=-2) == "aaaaaa"


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_time"}}])
def test_a_call_that_is_required_begins(tiny, choice):
    """A random model never ends the arguments: that they began is seen in a stream."""
    _, _, chunks = streamed(tiny, tools=TOOLS, tool_choice=choice, max_tokens=60, seed=1)
    begun = [call.function.name for chunk in chunks for one in chunk.choices for call in one.delta.tool_calls or () if call.id]
    assert len(begun) == 1 and begun[0] in (("get_weather", "get_time") if choice == "required" else ("get_time",))


@pytest.mark.parametrize("kind", ["json_object", "json_schema"])
def test_an_answer_is_held_to_json(tiny, kind):
    pytest.importorskip("llguidance")
    properties = {"answer": {"enum": ["yes", "no"]}, "sure": {"type": "boolean"}}
    schema = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    wanted = {"type": kind} | ({"json_schema": {"name": "judgement", "schema": schema}} if kind == "json_schema" else {})
    for seed in range(3):
        answer = chat(tiny, response_format=wanted, seed=seed, temperature=1.0, top_p=1, max_tokens=64).choices[0]
        if kind == "json_schema":
            assert answer.finish_reason == "stop"
            found = json.loads(answer.message.content)
            assert found["answer"] in ("yes", "no") and found["sure"] in (True, False) and len(found) == 2
        else:
            assert answer.message.content.lstrip().startswith("{")
    with pytest.raises(openai.BadRequestError, match="cannot be enforced"):
        chat(tiny, response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}})


def test_texts_are_continued(tiny, told, speaker, codec):
    complete = told.client.completions.create
    speaker.script = "<think> is a word. Action: none"
    answer = complete(model=NAME, prompt=["One", "Two"], n=2, echo=True, stop="Act")
    assert [choice.text for choice in answer.choices] == [
        f"{prompt}<think> is a word. " for prompt in ("One", "One", "Two", "Two")
    ]
    assert [one.finish_reason for one in answer.choices] == ["stop"] * 4
    assert answer.usage.prompt_tokens == sum(len(codec.text_prompt(prompt)) for prompt in ("One", "Two"))
    chunks = list(complete(model=NAME, prompt="One", stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == speaker.script
    drawn = tiny.client.completions.create(model=NAME, prompt="1 2 3", logprobs=2, max_tokens=4, seed=1).choices[0]
    assert len(drawn.logprobs.tokens) == len(drawn.logprobs.top_logprobs) <= 4
    assert all(LOWEST <= value <= 0 and math.isfinite(value) for value in drawn.logprobs.token_logprobs)


def test_clients_at_once_get_what_each_gets_alone(engine):
    """More clients than rows, streams beside whole answers, two choices each: none is lost, none is another's."""
    with live(Served(NAME, engine=TogetherEngine(engine.module, engine.codec, num_rows=4)), num_running=4) as server:
        asked = [
            {
                "messages": [{"role": "user", "content": f"{i} " * (i + 1)}],
                "seed": i,
                "n": 1 + i % 2,
                "max_tokens": 6 + i,
                "temperature": 1,
            }
            for i in range(8)
        ]
        alone = [[choice.message.content for choice in chat(server, **one).choices] for one in asked]
        found = {}

        def ask(number):
            if number % 3:
                found[number] = [choice.message.content for choice in chat(server, **asked[number]).choices]
            else:
                found[number] = list(streamed(server, **asked[number])[0].values())

        clients = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        assert [found[number] for number in range(8)] == alone
        assert len({text for texts in alone for text in texts}) == 12, "answers differ, so that a mistaken one would show"


def test_answers_have_the_shapes_that_are_documented(told, speaker, tiny):
    speaker.script = f"<think>\nHm.\n</think>\n\nWell.\n{CALLS}"
    for server, asked in ((told, {"tools": TOOLS}), (tiny, {"logprobs": True, "top_logprobs": 1, "n": 2, "max_tokens": 3})):
        shaped = ChatCompletion.model_validate(server.http.post("/v1/chat/completions", json={"messages": ASK, **asked}).json())
        assert bool(shaped.choices[0].message.tool_calls) == ("tools" in asked)
    asked = {"prompt": ["a", "b"], "logprobs": 1, "max_tokens": 3}
    assert len(Completion.model_validate(tiny.http.post("/v1/completions", json=asked).json()).choices) == 2
    assert Cards.model_validate(tiny.http.get("/v1/models").json()).data[0].id == NAME
