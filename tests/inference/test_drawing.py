"""Tokens come one at a time, and are the ones transformers' own generate gives; settings say every number."""

from __future__ import annotations

import threading

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from hone.config.generate import GenerateConfig
from hone.errors import ModelError
from hone.inference.asked import Asked
from hone.inference.drawing import stream_ids
from hone.inference.sampling import answer_length, generation_config

PROMPT = [1, 40, 50, 60, 70]


@pytest.fixture(scope="module")
def module(tiny_model_dir):
    return AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32).eval()


def settings(**numbers) -> GenerationConfig:
    return generation_config(GenerateConfig(**numbers), num_new=24, stop_ids=(4,), pad_id=0)


def test_greedy_equals_generate(module) -> None:
    ids = torch.tensor([PROMPT])
    expected = module.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=24, eos_token_id=4, pad_token_id=0
    )
    assert list(stream_ids(module, Asked(PROMPT), settings(do_sample=False), seed=None)) == expected[0, len(PROMPT) :].tolist()


def test_greedy_is_the_likeliest_token_of_a_plain_forward(module) -> None:
    """Without any of transformers' generation code, and without a cache."""
    ids = list(PROMPT)
    for token in stream_ids(module, Asked(PROMPT), settings(do_sample=False), seed=None):
        with torch.inference_mode():
            assert int(module(input_ids=torch.tensor([ids])).logits[0, -1].argmax()) == token
        ids.append(token)
    assert len(ids) > len(PROMPT) + 10


def test_beams_equal_generate(module) -> None:
    ids = torch.tensor([PROMPT])
    expected = module.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, num_beams=3, max_new_tokens=24, eos_token_id=4, pad_token_id=0
    )
    assert (
        list(stream_ids(module, Asked(PROMPT), settings(do_sample=False, num_beams=3), seed=None))
        == expected[0, len(PROMPT) :].tolist()
    )


def test_a_seed_repeats_the_draw_and_leaves_the_global_state_alone(module) -> None:
    state = torch.random.get_rng_state()
    first, again, other = (
        list(stream_ids(module, Asked(PROMPT), settings(temperature=2.0, top_p=1.0), seed=seed)) for seed in (7, 7, 8)
    )
    assert first == again != other
    assert torch.equal(torch.random.get_rng_state(), state)


def test_no_seed_draws_anew(module) -> None:
    answers = {tuple(stream_ids(module, Asked(PROMPT), settings(temperature=2.0, top_p=1.0), seed=None)) for _ in range(3)}
    assert len(answers) == 3


def test_top_k_1_is_greedy(module) -> None:
    greedy = list(stream_ids(module, Asked(PROMPT), settings(do_sample=False), seed=None))
    assert list(stream_ids(module, Asked(PROMPT), settings(top_k=1, temperature=5.0), seed=3)) == greedy


def test_repetition_penalty_changes_the_draw(module) -> None:
    plain = list(stream_ids(module, Asked(PROMPT), settings(do_sample=False), seed=None))
    assert list(stream_ids(module, Asked(PROMPT), settings(do_sample=False, repetition_penalty=5.0), seed=None)) != plain


def test_a_listener_who_leaves_stops_the_model(module) -> None:
    endless = generation_config(GenerateConfig(do_sample=False), num_new=100_000, stop_ids=(419,), pad_id=0)
    stream = stream_ids(module, Asked(PROMPT), endless, seed=None)
    heard = [next(stream) for _ in range(3)]
    stream.close()
    assert len(heard) == 3
    assert not [thread for thread in threading.enumerate() if thread.name == "generate"]


def test_the_model_s_error_reaches_the_listener(module) -> None:
    with pytest.raises(IndexError):
        list(stream_ids(module, Asked([10**6]), settings(do_sample=False), seed=None))


@pytest.mark.parametrize(
    ("numbers", "num_prompt", "limit", "expected"),
    [
        ({"max_new_tokens": 30}, 10, None, 30),
        ({"max_new_tokens": 0, "max_length": 50}, 10, None, 40),
        ({"max_new_tokens": 30}, 10, 25, 15),
    ],
)
def test_answer_length(numbers, num_prompt, limit, expected) -> None:
    assert answer_length(GenerateConfig(**numbers), num_prompt, limit) == expected


def test_a_conversation_that_is_too_long_says_what_to_write() -> None:
    with pytest.raises(ModelError, match="larger max_length"):
        answer_length(GenerateConfig(max_new_tokens=0, max_length=50), 50, None)
    with pytest.raises(ModelError, match="rope_scaling"):
        answer_length(GenerateConfig(), 512, 512)
