"""The engine: words that come whole, answers that are parsed, batches equal to single requests."""

from __future__ import annotations

import threading

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.families import tiny

from hone.chat.codec import build_codec
from hone.chat.events import parts_of
from hone.chat.message import Conversation, Text, Think, message
from hone.config.chat import ChatConfig
from hone.config.generate import GenerateConfig
from hone.errors import ModelError
from hone.inference.base import Request
from hone.inference.hf import HfEngine

GREEDY = GenerateConfig(do_sample=False, max_new_tokens=24)
QUESTIONS = [
    "What is the capital of France?",
    "1 + 1 =",
    "Write a short poem about rain.",
    "Hi",
    "Add two and three to five. " * 6,
]


def ask(text: str, numbers: GenerateConfig = GREEDY, seed: int | None = None) -> Request:
    return Request(Conversation((message("user", text),)), numbers, seed)


def say(parrot, codec, text: str, numbers: GenerateConfig = GREEDY):
    """The deltas of a model that says exactly `text` and its stop token."""
    parrot.script = (*codec.tokenizer.encode(text, add_special_tokens=False), codec.stop_ids[0])
    parrot.after = len(codec.prompt(ask("Hi").conversation))
    return list(HfEngine(parrot, codec).generate(ask("Hi", numbers)))


def test_experts_whose_config_learns_a_balance_answer(codec) -> None:
    experts = tiny("mixtral", vocab_size=len(codec.tokenizer), output_router_logits=True).eval()
    *_, last = HfEngine(experts, codec).generate(ask("Hi"))
    assert last.answer.num_tokens > 1


def test_greedy_answer_is_the_one_of_transformers_generate(module, codec) -> None:
    for question in QUESTIONS:
        request = ask(question, GREEDY.model_copy(update={"skip_special_tokens": False}))
        ids = torch.tensor([codec.prompt(request.conversation)])
        out = module.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=24,
            eos_token_id=list(codec.stop_ids),
            pad_token_id=0,
        )
        *_, last = HfEngine(module, codec).generate(request)
        assert last.answer.message == codec.parse(out[0, ids.shape[1] :].tolist())
        assert last.answer.num_tokens == out.shape[1] - ids.shape[1]
        assert last.answer.num_prompt == ids.shape[1]


@pytest.mark.parametrize(
    "text",
    ["Paris.", "\u4f60\u597d\uff0c\u4e16\u754c", "\U0001f600 ok \U0001f469\u200d\U0001f4bb", "a\n\n b  c", "na\u00efve \u00fc"],
)
def test_deltas_join_to_the_answer_and_never_hold_half_a_character(parrot, codec, text) -> None:
    deltas = say(parrot, codec, text, GenerateConfig(do_sample=False, max_new_tokens=200))
    assert "".join(delta.text for delta in deltas) == text == deltas[-1].answer.message.text
    assert not any("\ufffd" in delta.text for delta in deltas)
    assert deltas[-1].answer.finish == "stop"
    assert [delta.answer for delta in deltas[:-1]] == [None] * (len(deltas) - 1)
    assert len(deltas) > 2


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(codec="utf-8", exclude_characters="\ufffd"), min_size=1, max_size=12))
def test_any_text_comes_back_in_pieces(parrot, codec, text) -> None:
    if any(name in text for name in codec.tokenizer.all_special_tokens):
        return
    deltas = say(parrot, codec, text, GenerateConfig(do_sample=False, max_new_tokens=200))
    joined = "".join(delta.text for delta in deltas)
    assert joined == codec.tokenizer.decode(parrot.script[:-1], clean_up_tokenization_spaces=False)


def test_length_is_told_from_stop(parrot, codec) -> None:
    deltas = say(parrot, codec, "one two three four five six", GenerateConfig(do_sample=False, max_new_tokens=3))
    assert deltas[-1].answer.finish == "length"
    assert deltas[-1].answer.num_tokens == 3


def test_what_the_model_can_hold_is_told_from_what_was_asked_for(parrot, codec) -> None:
    engine = HfEngine(parrot, codec)
    parrot.script = (codec.tokenizer.encode("one", add_special_tokens=False)[0],)
    room = 512 - len(codec.prompt(ask("Hi").conversation))
    for num_new, finish in ((room - 1, "length"), (room, "context"), (room + 1, "context")):
        *_, last = engine.generate(ask("Hi", GenerateConfig(do_sample=False, max_new_tokens=num_new)))
        assert (last.answer.finish, last.answer.num_tokens) == (finish, min(num_new, room))


@pytest.mark.parametrize("numbers", [{"max_new_tokens": 0, "max_length": 50}, {"max_new_tokens": 500}])
def test_a_long_prompt_takes_no_room_from_the_others_of_its_batch(numbers, module, codec) -> None:
    engine = HfEngine(module, codec)
    requests = [ask(text, GenerateConfig(do_sample=False, **numbers)) for text in ("Hi", "Add two and three to five.", "Hi you")]
    alone = []
    for request in requests:
        *_, last = engine.generate(request)
        alone.append(last.answer)
    assert engine.generate_many(requests) == alone


def test_special_tokens_are_shown_when_asked_for(parrot, codec) -> None:
    """One rule for the terminal's text, the API's events and whole answers; a stop token is no part of a message."""
    shown = GenerateConfig(do_sample=False, max_new_tokens=50, skip_special_tokens=False)
    for numbers, said, stop in ((shown, "a<|im_start|>b", "<|im_end|>"), (GREEDY, "ab", "")):
        deltas = say(parrot, codec, "a<|im_start|>b", numbers)
        assert "".join(delta.text for delta in deltas) == said + stop
        assert parts_of([event for delta in deltas for event in delta.events]) == (Text(said),)
        assert deltas[-1].answer.message.text == said
        (whole,) = HfEngine(parrot, codec).generate_many([ask("Hi", numbers)])
        assert whole.message.text == said


def test_thoughts_come_back_as_parts(parrot, tiny_tokenizer) -> None:
    codec = build_codec(ChatConfig(template="qwen3"), tiny_tokenizer)
    deltas = say(parrot, codec, "<think>\nsum\n</think>\n\nFive.", GenerateConfig(do_sample=False, max_new_tokens=100))
    assert deltas[-1].answer.message.parts == (Think("sum"), Text("Five."))


def test_a_batch_answers_as_single_requests_do(module, codec) -> None:
    engine = HfEngine(module, codec)
    requests = [ask(question) for question in QUESTIONS] + [ask("Hi", GenerateConfig(do_sample=False, max_new_tokens=5))]
    alone = []
    for request in requests:
        *_, last = engine.generate(request)
        alone.append(last.answer)
    assert engine.generate_many(requests, batch_size=3) == alone
    assert engine.generate_many([]) == []


def test_padding_does_not_reach_answers_that_end_early(parrot, codec) -> None:
    """The parrot stops every row at once; ids after a stop token must not be read."""
    engine = HfEngine(parrot, codec)
    assert engine._upto_stop([7, 8, codec.stop_ids[0], 0, 0]) == [7, 8, codec.stop_ids[0]]
    assert engine._upto_stop([7, 8]) == [7, 8]


def test_a_seed_repeats_the_answer(module, codec) -> None:
    engine = HfEngine(module, codec)
    wild = GenerateConfig(temperature=3.0, top_p=1.0, top_k=0, max_new_tokens=20)
    texts = [[delta.text for delta in engine.generate(ask("Hi", wild, seed))] for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_leaving_frees_the_engine(module, codec) -> None:
    engine = HfEngine(module, codec)
    stream = engine.generate(ask("Hi", GenerateConfig(do_sample=False, max_new_tokens=400)))
    next(stream)
    stream.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "generate"]
    assert list(engine.generate(ask("Hi")))


def test_the_model_s_own_sampling_file_changes_nothing(module, codec) -> None:
    plain = list(HfEngine(module, codec).generate(ask("Hi")))
    module.generation_config.repetition_penalty = 9.0
    assert list(HfEngine(module, codec).generate(ask("Hi"))) == plain


def test_a_conversation_longer_than_the_model_is_refused(module, codec) -> None:
    with pytest.raises(ModelError, match="the model can hold 512"):
        list(HfEngine(module, codec).generate(ask("word " * 600)))


def test_texts_of_a_batch_are_continued_as_single_ones_are(module, codec) -> None:
    engine = HfEngine(module, codec)
    requests = [Request(text, GREEDY) for text in ("1 2 3 4", "Rain falls on the", "What is <|im_end|>")]
    alone = [list(engine.generate(request)) for request in requests]
    assert engine.generate_many(requests) == [deltas[-1].answer for deltas in alone]
    for deltas in alone:
        assert "".join(delta.text for delta in deltas) == deltas[-1].answer.message.text


def test_a_request_is_answered_with_a_thought_or_without_as_it_asks(parrot, tiny_tokenizer) -> None:
    codec = build_codec(ChatConfig(template="qwen3"), tiny_tokenizer)
    engine, question = HfEngine(parrot, codec), ask("Hi").conversation
    assert engine.thinks_on_demand
    parrot.script = (*tiny_tokenizer.encode("Hello", add_special_tokens=False), codec.stop_ids[0])
    told = {}
    for thinks in (None, True, False):
        prompt = codec.asked_to_think(thinks).prompt(question)
        parrot.after = len(prompt)
        *_, last = engine.generate(Request(question, GREEDY, thinks=thinks))
        told[thinks] = last.answer.num_prompt
        assert last.answer.num_prompt == len(prompt) and last.answer.message == message("assistant", "Hello")
    assert told[None] == told[True] < told[False], "an empty thought stands in the prompt of an answer without one"
