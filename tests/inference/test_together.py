"""Answers drawn together are those drawn alone: rows that join and leave, seeds, penalties, and models that keep other things."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from hone.chat.message import Conversation, message
from hone.config.generate import GenerateConfig
from hone.errors import ModelError
from hone.inference.asked import Asked
from hone.inference.base import Request, Steering
from hone.inference.hf import HfEngine
from hone.inference.rows import Row, Rows, why_not
from hone.inference.sampling import generation_config
from hone.inference.steering import Steer
from hone.inference.together import TogetherEngine

PLAIN = Steering()


def ask(text: str, seed: int = 0, steering: Steering = PLAIN, **settings: object) -> Request:
    numbers = GenerateConfig(**{"max_new_tokens": 12, "temperature": 1.0, "top_p": 1.0, "top_k": 0, **settings})
    return Request(Conversation((message("user", text),)), numbers, seed, steering)


REQUESTS = [
    ask("Hi", 1),
    ask("What is the capital of France?", 2, max_new_tokens=5),
    ask("Add two and three to five. " * 4, 3, temperature=0.5, top_k=20),
    ask("1 + 1", do_sample=False, repetition_penalty=1.3),
    ask("Rain", 5, Steering(presence_penalty=1.5, frequency_penalty=0.5, num_top=2), top_p=0.9),
    ask("Hi", 6, Steering(logit_bias={70: 100}), max_new_tokens=20),
]


def together(engine, requests, pause=0.0):
    """The deltas of each request, asked by a thread of its own, one `pause` after the other."""
    found = {}
    threads = []
    for index, request in enumerate(requests):
        threads.append(threading.Thread(target=lambda i=index, r=request: found.update({i: list(engine.generate(r))})))
        threads[-1].start()
        time.sleep(pause)
    for thread in threads:
        thread.join()
    return [found[index] for index in range(len(requests))]


@pytest.mark.parametrize("num_rows", [2, 8])
def test_each_answer_is_the_one_it_gets_alone(num_rows, module, codec):
    """More requests than rows: they join as others leave. In fp32 the products of more rows round too little to change a draw."""
    engine = TogetherEngine(module, codec, num_rows=num_rows)
    alone = [list(engine.generate(request)) for request in REQUESTS]
    for deltas, others in zip(together(engine, REQUESTS, 0.005), alone, strict=True):
        assert deltas[-1].answer == others[-1].answer
        assert [token.text for one in deltas for token in one.tokens] == [token.text for one in others for token in one.tokens]


def test_greedily_it_is_the_answer_of_transformers_generate(module, codec):
    requests = [ask(text, do_sample=False) for text in ("Hi", "What is the capital of France?", "1 2 3")]
    found = together(TogetherEngine(module, codec, num_rows=4), requests)
    for deltas, request in zip(found, requests, strict=True):
        *_, last = HfEngine(module, codec).generate(request)
        assert deltas[-1].answer == last.answer


def test_what_is_drawn_has_the_models_own_shares(module, codec):
    """1500 first tokens of one prompt, each of its own seed, against the model's probabilities: a chi-squared test."""
    prompt = codec.prompt(ask("Hi").conversation)
    settings = generation_config(GenerateConfig(temperature=0.7, top_k=8, top_p=1), num_new=1, stop_ids=(1,), pad_id=0)
    with torch.inference_mode():
        logits = module(torch.tensor([prompt])).logits[0, -1] / 0.7
    best = logits.topk(8)
    expected = best.values.softmax(-1) * 1500
    rows = [Row(Asked(prompt), settings, seed=seed) for seed in range(1500)]
    for row in rows:
        row.draw(logits[None] * 0.7)
    drawn = torch.tensor([row.ids[-1] for row in rows])
    counts = torch.stack([(drawn == token).sum() for token in best.indices])
    assert counts.sum() == 1500
    assert float(((counts - expected) ** 2 / expected).sum()) < 24.3, "0.1 % of right draws are beyond, for 7 degrees of freedom"


def test_padding_goes_when_the_longest_row_goes(module):
    settings = generation_config(GenerateConfig(do_sample=False), num_new=9, stop_ids=(1,), pad_id=0)
    rows, long, short = Rows(module), Row(Asked([5] * 30), settings, seed=0), Row(Asked([6, 7]), settings, seed=0)
    rows.join(long)
    rows.join(short)
    rows.step()
    assert rows._mask_BT.shape == (2, 31) and rows._mask_BT[1].sum() == 3
    rows.keep([short])
    assert rows._mask_BT.shape == (1, 3) and rows._cache.get_seq_length() == 3
    rows.step()
    with torch.inference_mode():
        again = [int(module(torch.tensor([short.ids[:n]])).logits[0, -1].argmax()) for n in range(2, len(short.ids))]
    assert short.ids[2:] == again


def test_who_leaves_frees_a_row_and_a_wrong_request_harms_no_other(module, codec):
    engine = TogetherEngine(module, codec, num_rows=2)
    first = engine.generate(ask("Hi", max_new_tokens=300))
    next(first)
    with pytest.raises(ModelError, match="no token 99999"):
        list(engine.generate(ask("Hi", steering=Steering(logit_bias={99999: 1}))))
    first.close()
    assert len(list(engine.generate(ask("Hi", 4)))) > 1
    end = time.monotonic() + 10
    while engine._running:
        assert time.monotonic() < end, "the one who left is drawn on"
        time.sleep(0.01)


def test_one_whose_steering_fails_on_the_way_harms_no_other(module, codec, monkeypatch):
    engine = TogetherEngine(module, codec, num_rows=2)
    alone = list(engine.generate(ask("Hi", 1)))
    bad = ask("Rain", 2, Steering(num_top=1))
    noted, found = [], []

    def note(self, token):
        noted.append(token)
        if len(noted) > 2:
            raise ModelError("too large")

    monkeypatch.setattr(Steer, "note", note)
    good = threading.Thread(target=lambda: found.append(list(engine.generate(ask("Hi", 1)))))
    good.start()
    with pytest.raises(ModelError, match="too large"):
        list(engine.generate(bad))
    good.join()
    assert found[0][-1].answer == alone[-1].answer


def test_an_error_of_the_model_reaches_all_whom_it_hits_and_the_next_are_answered(module, codec, monkeypatch):
    engine = TogetherEngine(module, codec, num_rows=2)
    good = Rows.step
    monkeypatch.setattr(Rows, "step", lambda self: (_ for _ in ()).throw(RuntimeError("out of memory")))
    for _ in range(2):
        with pytest.raises(RuntimeError, match="out of memory"):
            list(engine.generate(ask("Hi")))
    monkeypatch.setattr(Rows, "step", good)
    assert list(engine.generate(ask("Hi")))[-1].answer is not None


def small(config, model):
    torch.manual_seed(0)
    return model(config).eval()


SIZES = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


def test_which_models_can():
    assert why_not(small(LlamaConfig(**SIZES), LlamaForCausalLM)) == ""
    assert why_not(small(GPT2Config(vocab_size=99, n_embd=32, n_layer=2, n_head=4), GPT2LMHeadModel)) == ""
    sliding = MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=4)
    assert "cache" in why_not(small(sliding, MistralForCausalLM))
    mamba = MambaConfig(vocab_size=99, hidden_size=32, num_hidden_layers=2, state_size=4)
    assert why_not(small(mamba, MambaForCausalLM)) != ""


def test_a_model_that_sees_its_padding_is_found_out(tiny_model_dir, monkeypatch):
    module = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32).eval()
    assert why_not(module) == ""
    forward = module.forward
    monkeypatch.setattr(module, "forward", lambda *a, attention_mask=None, **k: forward(*a, **k))
    assert "difference" in why_not(module)


@pytest.fixture
def lora_folders(tmp_path, tiny_model_dir):
    """Two adapters that change the model, each its own way: folders by name."""
    made = {}
    for number, name in enumerate(("law", "v1.poems"), 1):
        torch.manual_seed(number)
        base = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
        tuned = get_peft_model(base, LoraConfig(r=2 * number, target_modules=["q_proj", "down_proj", "lm_head"]))
        for weight in (weight for key, weight in tuned.named_parameters() if "lora_B" in key):
            torch.nn.init.normal_(weight, std=0.5)
        tuned.save_pretrained(tmp_path / name)
        made[name] = str(tmp_path / name)
    return made


@pytest.fixture
def own_module(tiny_model_dir):
    return AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32).eval()


def of_adapters(requests):
    return [replace(one, adapter=name) for one in requests for name in ("", "law", "v1.poems")]


@pytest.mark.parametrize("make", [HfEngine, partial(TogetherEngine, num_rows=12)], ids=["in line", "together"])
def test_base_and_adapters_in_one_batch_answer_as_each_alone(make, own_module, tiny_model_dir, lora_folders, codec):
    """Alone: the base, and each adapter merged into weights of its own."""
    modules = {"": AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32).eval()}
    engine = make(own_module, codec)
    for name, place in lora_folders.items():
        base = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
        modules[name] = PeftModel.from_pretrained(base, place).merge_and_unload().eval()
        engine.add_adapter(name, place)
    requests = of_adapters(REQUESTS[:4])
    alone = [list(make(modules[one.adapter], codec).generate(replace(one, adapter="")))[-1].answer for one in requests]
    found = [deltas[-1].answer for deltas in together(engine, requests)]
    assert [one.message for one in found] == [one.message for one in alone]
    assert len({str(one.message) for one in alone[:3]}) == 3, "the adapters say nothing of their own"


def test_an_adapter_that_is_let_go_stays_for_the_answers_it_has_begun(own_module, lora_folders, codec):
    engine = TogetherEngine(own_module, codec, num_rows=4)
    engine.add_adapter("law", lora_folders["law"])
    request = replace(REQUESTS[0], adapter="law")
    whole = [one.text for one in engine.generate(request)]
    begun = engine.generate(request)
    texts = [next(begun).text]
    engine.remove_adapter("law")
    assert engine.adapters == ()
    with pytest.raises(ModelError, match="no adapter 'law' here any more"):
        next(engine.generate(request))
    with pytest.raises(ModelError, match="still used by an answer"):
        engine.add_adapter("law", lora_folders["v1.poems"])
    assert texts + [one.text for one in begun] == whole
    engine.add_adapter("law", lora_folders["v1.poems"])  # its name is free again
    assert [one.text for one in engine.generate(request)] != whole
    with pytest.raises(ModelError, match=r"no adapter 'v1.poems' here; law can be let go"):
        engine.remove_adapter("v1.poems")


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["embed_tokens"]}, "modules of its own"),
        ({"peft_type": "OFT"}, "OFT"),
    ],
)
def test_adapters_that_a_batch_cannot_share_are_refused(changed, told, own_module, lora_folders, codec):
    file = Path(lora_folders["law"], "adapter_config.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    engine = HfEngine(own_module, codec)
    with pytest.raises(ModelError, match=told):
        engine.add_adapter("law", lora_folders["law"])
    assert engine.adapters == ()
    assert next(engine.generate(REQUESTS[0]))
