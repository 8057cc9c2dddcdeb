"""Answers of a vLLM or SGLang server are those of the model here; what a server cannot do is refused by name.

Against stand-ins, whose protocols are read from the servers' sources. A run against vLLM 0.32 itself is noted in docs/serving.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tests.inference.servers.stand_in import StandIn
from tests.serving.servers import until
from transformers import AutoModelForCausalLM

from hone.chat.codec import build_codec
from hone.chat.message import Conversation, message
from hone.config.chat import ChatConfig
from hone.config.generate import GenerateConfig
from hone.errors import EngineError, ModelError
from hone.inference.base import Request, Steering
from hone.inference.hf import HfEngine
from hone.inference.servers.ask import Ask, Said
from hone.inference.servers.engine import ServerEngine
from hone.inference.servers.sglang import SglangClient
from hone.inference.servers.vllm import VllmClient

KINDS = pytest.mark.parametrize("kind", ["vllm", "sglang", "sglang in pieces"])
PLAIN = Steering()
IN_PIECES = {"incremental_streaming_output": True}


def tool(name: str) -> dict:
    return {
        "type": "function",
        "function": {"name": name, "parameters": {"type": "object", "properties": {"x": {"type": "string"}}}},
    }


def ask(text: str = "Hi", *, seed: int | None = None, tools: tuple = (), steering: Steering = PLAIN, adapter: str = "",
        **settings: object) -> Request:  # fmt: skip
    numbers = GenerateConfig(**{"do_sample": False, "max_new_tokens": 10, **settings})
    return Request(Conversation((message("user", text),), tools=tools), numbers, seed, steering, adapter)


@contextmanager
def served(kind: str, module, codec, **options: object) -> Iterator[tuple[StandIn, ServerEngine]]:
    """A stand-in and the engine that asks it."""
    if kind.endswith("pieces"):
        options["told"] = IN_PIECES | options.get("told", {})
    largest = options.pop("largest_rank", None)
    with StandIn(kind.partition(" ")[0], module, codec, **options) as server:
        client = VllmClient(server.url) if kind == "vllm" else SglangClient(server.url, ours=True)
        yield server, ServerEngine(client, codec, num_together=4, largest_rank=largest)


def told(engine, request: Request) -> tuple:
    """The answer, the text of all deltas, and the tokens that are told."""
    deltas = list(engine.generate(request))
    return deltas[-1].answer, "".join(delta.text for delta in deltas), [token for delta in deltas for token in delta.tokens]


@KINDS
def test_an_answer_is_the_one_that_the_model_gives_here(kind, module, codec):
    ours = HfEngine(module, codec)
    with served(kind, module, codec) as (_, theirs):
        for text, steering, settings in (
            ("Hi", Steering(num_top=2), {}),
            ("Rain", Steering(num_top=0), {"max_new_tokens": 3}),
            ("One", Steering(presence_penalty=1.5, frequency_penalty=0.5), {}),
            ("Two", Steering(logit_bias={70: 100.0}), {}),
            ("Stop", Steering(logit_bias={codec.stop_ids[0]: 100.0}), {}),
        ):
            request = ask(text, steering=steering, **settings)
            (answer, words, tokens), (other, others, expected) = told(theirs, request), told(ours, request)
            assert (answer, words) == (other, others)
            assert [(one.text, len(one.top)) for one in tokens] == [(one.text, len(one.top)) for one in expected]
            for one, two in zip(tokens, expected, strict=True):  # 1e-4: one forward over all, and one with a cache, in fp32
                assert one.logprob == pytest.approx(two.logprob, abs=1e-4)
                assert [each.text for each in one.top] == [each.text for each in two.top]


@KINDS
def test_a_call_that_must_be_made_begins_as_here(kind, tiny_model_dir, tiny_tokenizer):
    codec = build_codec(ChatConfig(template="qwen"), tiny_tokenizer)
    module = AutoModelForCausalLM.from_pretrained(tiny_model_dir, max_position_embeddings=2048).eval()  # for tools as bytes
    ours, tools = HfEngine(module, codec), (tool("go"), tool("get"))
    with served(kind, module, codec, told={"max_model_len": 2048}) as (server, theirs):
        for functions, num_top in ((("go",), None), (("go", "get"), 1)):
            request = ask(tools=tools, steering=Steering(functions=functions, num_top=num_top), max_new_tokens=36)
            (answer, words, tokens), (other, others, expected) = told(theirs, request), told(ours, request)
            assert (answer, words, len(tokens)) == (other, others, len(expected))
        most = [body["max_tokens"] if kind == "vllm" else body["sampling_params"]["max_new_tokens"] for body in server.asked]
        assert 1 in most, "where two functions begin otherwise, the model is asked which"
        short = ask(tools=tools, steering=Steering(functions=("go",)), max_new_tokens=2)
        assert told(theirs, short)[0] == told(ours, short)[0]


@KINDS
def test_adapters_are_chosen_by_each_request(kind, module, codec, tmp_path):
    for name, start in (("law", 1), ("poems", 2)):
        torch.manual_seed(start)
        base = AutoModelForCausalLM.from_pretrained(module.config._name_or_path)
        get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "up_proj"], init_lora_weights=False)).save_pretrained(
            tmp_path / name
        )
    ours = HfEngine(AutoModelForCausalLM.from_pretrained(module.config._name_or_path).eval(), codec)
    with served(kind, module, codec, largest_rank=4) as (server, theirs):
        for engine in (ours, theirs):
            for name in ("law", "poems"):
                engine.add_adapter(name, str(tmp_path / name))
        answers = {name: told(theirs, ask(adapter=name))[0] for name in ("", "law", "poems")}
        assert answers == {name: told(ours, ask(adapter=name))[0] for name in answers}
        assert len({str(answer.message) for answer in answers.values()}) == 3
        theirs.remove_adapter("law")
        assert theirs.adapters == ("poems",) and set(server.adapters) == {"poems"}
        with pytest.raises(ModelError, match="no adapter 'law' here any more"):
            told(theirs, ask(adapter="law"))
        theirs._largest_rank = 2
        with pytest.raises(ModelError, match="has rank 4; write vllm_max_lora_rank: 4"):
            theirs.add_adapter("more", str(tmp_path / "law"))


def test_who_leaves_hangs_up(module, codec):
    with served("vllm", module, codec) as (server, engine):
        answer = engine.generate(ask(max_new_tokens=300))
        next(answer)
        answer.close()
        until(lambda: server.left == 1)


def test_seeds_and_numbers_reach_the_server(module, codec):
    drawn = {"do_sample": True, "temperature": 0.8, "top_p": 0.9, "top_k": 7, "repetition_penalty": 1.2}
    with served("vllm", module, codec) as (server, engine):
        first, again = (told(engine, ask(seed=2**64 - 1, **drawn)) for _ in range(2))
        assert first == again and told(engine, ask(seed=1, **drawn)) != first
        body = server.asked[0]
        assert {name: body[name] for name in ("temperature", "top_p", "top_k", "repetition_penalty", "seed")} == {
            "temperature": 0.8, "top_p": 0.9, "top_k": 7, "repetition_penalty": 1.2, "seed": 2**63 - 1,
        }  # fmt: skip
        assert body["stop_token_ids"] == list(codec.stop_ids) and body["ignore_eos"]
    with served("sglang", module, codec, told={"enable_deterministic_inference": True}) as (server, engine):
        told(engine, ask(seed=5, do_sample=True, top_k=0))
        assert (server.asked[0]["sampling_params"]["sampling_seed"], server.asked[0]["sampling_params"]["top_k"]) == (5, -1)


def test_a_schema_holds(module, codec):
    schema = json.dumps({"enum": ["yes", "no"]})
    for kind in ("vllm", "sglang"):
        with served(kind, module, codec) as (_, engine):
            answer, words, _ = told(engine, ask(steering=Steering(json_schema=schema), max_new_tokens=30))
            assert json.loads(words) in ("yes", "no") and answer.finish == "stop"


class Scripted:
    """A Client that draws what it is told to, and notes what it is asked."""

    limit = 400

    def __init__(self, *scripts: list[int]):
        self.scripts, self.asked = list(scripts), []

    def refuse(self, request: Request) -> None:
        pass

    def draw(self, ask: Ask) -> Iterator[Said]:
        self.asked.append(ask)
        yield from map(Said, self.scripts.pop(0))


def test_a_schema_begins_behind_the_thought(codec, monkeypatch):
    """The thought is asked for without a schema and left where it closes; what follows is asked for by a seed of its own."""
    monkeypatch.setattr(type(codec), "thought_is_open", lambda self, ids: True)
    monkeypatch.setattr(type(codec), "thought_is_closed", lambda self, ids: ids[-1] == 77)
    client = Scripted([70, 71, 77, 99, 99], [72, codec.stop_ids[0]])
    engine = ServerEngine(client, codec, num_together=1)
    request = ask(seed=3, do_sample=True, steering=Steering(json_schema="{}"))
    assert told(engine, request)[0].num_tokens == 5
    first, second = client.asked
    assert (first.json_schema, first.num_new, first.seed) == ("", 10, 3)
    assert (second.json_schema, second.ids, second.num_new) == ("{}", [*first.ids, 70, 71, 77], 7) and second.seed not in (
        3,
        None,
    )
    with pytest.raises(ModelError, match=r"presence_penalty, frequency_penalty: .* in parts"):
        told(engine, replace(request, steering=Steering(json_schema="{}", presence_penalty=1)))


@pytest.mark.parametrize(
    ("kind", "request_", "words"),
    [
        ("vllm", ask(num_beams=2), "num_beams above 1"),
        ("vllm", ask(steering=Steering(num_top=21)), "top_logprobs: vLLM tells 20"),
        ("sglang", ask(seed=1, do_sample=True), "enable_deterministic_inference: true"),
        ("sglang", ask(repetition_penalty=1.1), "repetition_penalty: SGLang's"),
        ("sglang", ask(steering=Steering(num_top=1, presence_penalty=1)), "logprobs: SGLang tells those behind"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " in value else "",
)
def test_what_a_server_cannot_do_is_refused_by_name(kind, request_, words, module, codec):
    with served(kind, module, codec) as (server, engine), pytest.raises(ModelError, match=words):
        told(engine, request_)
    assert not server.asked


def test_log_probs_of_a_foreign_sglang_are_told_where_no_temperature_stands_before_them(module, codec):
    with StandIn("sglang", module, codec) as server:
        engine = ServerEngine(SglangClient(server.url), codec, num_together=1)
        assert len(told(engine, ask(steering=Steering(num_top=0)))[2]) == 10
        with pytest.raises(ModelError, match="ask with temperature 1"):
            told(engine, ask(do_sample=True, steering=Steering(num_top=0), temperature=0.5))


def of(ids: list[int], finish: str | None) -> dict:
    return {"choices": [{"token_ids": ids, "finish_reason": finish}]}


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ([{"error": {"message": "no memory", "code": 500}}], "no memory"),
        ([of([5], None), b"{half"], "which is no JSON"),
        ([of([5], "stop")], "after 1 of 10 tokens, the last of them 5, and says stop"),
        ([of([5], "length")], "says length"),
        ([of([], "length")], "after 0 of 10"),
        ([of([5], "abort")], "says abort"),
    ],
)
def test_a_server_that_goes_wrong_is_told(events, words, module, codec):
    with served("vllm", module, codec, events=lambda _: iter(events)) as (_, engine), pytest.raises(EngineError, match=words):
        told(engine, ask())


def test_a_request_that_the_server_refuses_is_the_askers(module, codec):
    refused = {"error": {"message": "Grammar error", "code": 400}}
    with served("vllm", module, codec, events=lambda _: iter([refused])) as (_, engine):
        with pytest.raises(ModelError, match="Grammar error") as told_:
            told(engine, ask())
        assert not isinstance(told_.value, EngineError)


def test_a_server_that_aborts_or_is_too_old_or_gone_is_told(module, codec):
    stopped = {"output_ids": [], "meta_info": {"finish_reason": {"type": "abort", "message": "out of memory"}}}
    with (
        served("sglang", module, codec, events=lambda _: iter([stopped])) as (_, engine),
        pytest.raises(ModelError, match="out of memory"),
    ):
        told(engine, ask())
    with (
        StandIn("vllm", module, codec, told={"version": "0.10.2"}) as server,
        pytest.raises(ModelError, match=r"0\.10\.2 is too old: 0\.11"),
    ):
        VllmClient(server.url)
    with pytest.raises(ModelError, match=r"the vLLM server at .* cannot be reached"):
        VllmClient(server.url)


def test_many_requests_are_answered_in_their_order(module, codec):
    requests = [ask(text) for text in ("Hi", "Rain", "One", "Two")]
    with served("vllm", module, codec) as (_, engine):
        assert engine.generate_many(requests) == HfEngine(module, codec).generate_many(requests, batch_size=1)
