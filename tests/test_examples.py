"""Every example runs: two steps on a random tiny model of its family made on the spot, in this process, by the command line.

Does not judge what is learned; `make demo` does.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from hone import cli
from hone.chat.codec import build_codec
from hone.chat.message import Conversation, message
from hone.commands.api import load_served
from hone.config import load
from hone.config.chat import ChatConfig
from hone.inference.base import Request
from hone.inference.hf import HfEngine
from tests import worlds
from tests.inference.servers.stand_in import StandIn
from tests.pictures import make_model
from tests.runs import weights_of, write_run
from tests.scoring import write_reward_adapter

PROJECT = Path(__file__).resolve().parents[1]
EXAMPLES = PROJECT / "examples"
NOT_TRAINED = ("api", "api_vllm", "chat", "export", "export_gguf", "export_int4", "predict")
STARTED = {"deepspeed_sft": "deepspeed", "ray_sft": "ray", "long_context_sft": "torch"}
"""Trained by processes of their own, with the package that they need."""
TRAINED = sorted(file for file in EXAMPLES.glob("*.yaml") if file.stem not in (*NOT_TRAINED, *STARTED))
QWEN = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<think>", "</think>"]


def tiny_model(folder: Path, tokenizer) -> str:
    """A random Llama of two layers with `tokenizer` beside it; its folder."""
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=2048, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def llama3(tmp_path_factory) -> str:
    """A tiny model whose tokenizer has Llama 3's control tokens and carries its format."""
    return tiny_model(tmp_path_factory.mktemp("llama3"), AutoTokenizer.from_pretrained(PROJECT / "demo" / "model"))


@pytest.fixture(scope="module")
def qwen(tmp_path_factory) -> str:
    """A tiny model whose tokenizer has Qwen's control tokens and carries no format."""
    tokenizer = AutoTokenizer.from_pretrained(PROJECT / "demo" / "model")
    tokenizer.add_special_tokens({"additional_special_tokens": QWEN[:3], "eos_token": QWEN[1]})
    tokenizer.add_tokens(QWEN[3:])
    tokenizer.chat_template = None
    return tiny_model(tmp_path_factory.mktemp("qwen"), tokenizer)


@pytest.fixture
def here(monkeypatch) -> None:
    """The folder from which an example's relative paths are meant."""
    monkeypatch.chdir(PROJECT)


def settings(file: Path) -> dict:
    """What an example says."""
    return yaml.safe_load(file.read_text())


def model_for(file: Path, llama3: str, qwen: str) -> str:
    """The tiny model that has the control tokens of the example's template."""
    if settings(file).get("template") == "qwen2_vl":
        folder = Path(qwen).with_name("qwen2_vl")
        make_model(folder, "qwen2_5_vl")
        return str(folder)
    return qwen if settings(file).get("template", "").startswith("qwen") else llama3


def places(file: Path, model: str) -> list[str]:
    """The tiny model in the place of every model that the example names; as a teacher it has drawn other weights."""
    if "teacher_model" not in settings(file):
        return [f"model_name_or_path={model}"]
    teacher = Path(model).with_name("teacher")
    tiny_model(teacher, AutoTokenizer.from_pretrained(model))
    return [f"model_name_or_path={model}", f"teacher_model={teacher}"]


def judged(file: Path, model: str, folder: Path) -> list[str]:
    """An argument that names a random reward adapter, where the example wants one."""
    return [f"reward_model={write_reward_adapter(model, folder / 'reward')}"] if "reward_model" in settings(file) else []


def train(file: Path, model: str, output: Path, *more: str) -> int:
    """Train an example for two steps on the CPU; the exit code."""
    short = ["logging_steps=1", "use_cpu=true", *places(file, model), f"output_dir={output}"]
    return cli.main(["train", str(file), *short, *(more or ["max_steps=2"])])


@pytest.mark.parametrize("file", TRAINED, ids=lambda file: file.stem)
def test_it_trains(file: Path, llama3: str, qwen: str, tmp_path: Path, here, capsys):
    model = model_for(file, llama3, qwen)
    if settings(file).get("resume_from_checkpoint"):
        assert train(file, model, tmp_path, "max_steps=1", "warmup_ratio=0", "save_steps=1", "resume_from_checkpoint=null") == 0
    assert train(file, model, tmp_path, "max_steps=2", *judged(file, model, tmp_path)) == 0
    assert "warning: " not in capsys.readouterr().err, "a column that is not read, a question that is empty"
    lines = [json.loads(line) for line in (tmp_path / "trainer_log.jsonl").read_text().splitlines()]
    assert lines[-1]["current_steps"] == 2
    # What grpo calls its loss is 0 at each first use of its answers but for their lengths; it is the gradient that counts.
    assert sum("loss" in line and (line["loss"] > 0 or "reward" in line) for line in lines) == 2
    trained = "model.safetensors" if settings(file)["finetuning_type"] in ("full", "freeze") else "adapter_model.safetensors"
    assert (tmp_path / trained).stat().st_size > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", STARTED)
def test_it_trains_on_two_processes(name: str, llama3: str, tmp_path: Path, here):
    pytest.importorskip(STARTED[name], reason=f"needs the extra {STARTED[name]}")
    short = ["use_cpu=true", "bf16=false", f"model_name_or_path={llama3}", f"output_dir={tmp_path / 'out'}", "max_steps=2"]
    file = EXAMPLES / f"{name}.yaml"
    assert cli.main(["check", str(file), "--json", *short]) == 0
    variables = {**os.environ, "CUDA_VISIBLE_DEVICES": ""} if "use_ray" in settings(file) else worlds.launched(2)
    words = [sys.executable, "-m", "hone", "train", str(file), *short, "logging_steps=1"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=240, env=variables, check=False)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "out" / "trainer_log.jsonl").read_text().splitlines()]
    assert [line["current_steps"] for line in lines] == [1, 2] and all(line["loss"] > 0 for line in lines)
    plan = (tmp_path / "out" / "plan.json").read_text()
    assert list((tmp_path / "out").glob("*model.safetensors")) and ('"world": 2' in plan or "rows cut over 2" in plan)


WAYS = "lora_dpo lora_kto reward_model ppo grpo distill gkd embedding classifier reranker".split()
METHODS = [(name, method) for name in WAYS for method in ("full", "freeze", "lora", "qlora")]
METHODS += [(name, "oft") for name in ("lora_dpo", "ppo", "gkd", "classifier")]  # as an adapter it goes LoRA's ways
METHODS += [("reward_model", "qoft")]


@pytest.mark.parametrize(("name", "method"), METHODS)
def test_every_way_to_learn_goes_with_every_method(name: str, method: str, llama3: str, qwen: str, tmp_path: Path, here):
    """An example with its method exchanged: what is trained changes, and nothing is trained that the method leaves alone."""
    written = {key: value for key, value in settings(EXAMPLES / f"{name}.yaml").items() if not key.startswith("lora_")}
    written |= {
        "finetuning_type": method.removeprefix("q"),
        **({"oft_block_size": 8} if "oft" in method else {}),
        "bf16": False,
        "learning_rate": 0.01,
        "warmup_ratio": 0,
    }
    written |= {"quantization_bit": 4} if method in ("qlora", "qoft") else {}
    written |= {"max_new_tokens": 8} if "max_new_tokens" in written else {}
    file = write_run(written, tmp_path / "run.yaml")
    model = model_for(file, llama3, qwen)
    judge = judged(file, model, tmp_path)
    if judge and "lora" not in method:
        whole = shutil.copytree(model, tmp_path / "judge")
        shutil.copy(tmp_path / "reward" / "value_head.safetensors", whole)
        judge = [f"reward_model={whole}", "reward_model_type=full"]
    assert train(file, model, tmp_path / "out", "max_steps=2", *judge) == 0
    after = weights_of(tmp_path / "out")
    if "lora" in method or "oft" in method:  # both begin as nothing
        assert any(float(weight.abs().max()) > 0 for key, weight in after.items() if "lora_B" in key or "oft_R" in key)
        return
    before = weights_of(model)
    changed = {key for key in before.keys() & after.keys() if not before[key].equal(after[key])}
    assert changed and (method == "full" or all(".layers." in key for key in changed))


@pytest.mark.parametrize("file", TRAINED, ids=lambda file: file.stem)
def test_check_finds_no_fault_in_it(file: Path, llama3: str, qwen: str, tmp_path: Path, here, capsys):
    arguments = ["check", str(file), "--json", "use_cpu=true", *places(file, model_for(file, llama3, qwen))]
    if settings(file).get("resume_from_checkpoint"):
        arguments.append("resume_from_checkpoint=null")
    assert cli.main([*arguments, f"output_dir={tmp_path}"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["faults"] == [] and report["samples"]


def test_vllm_is_asked_as_its_example_says(llama3: str, here):
    module = AutoModelForCausalLM.from_pretrained(llama3).eval()
    tokenizer = AutoTokenizer.from_pretrained(llama3)
    codec = build_codec(ChatConfig(template="llama3"), tokenizer)
    with StandIn("vllm", module, codec, told={"max_model_len": 2048}) as server:
        told = [f"model_name_or_path={llama3}", f"infer_url={server.url}", "max_new_tokens=4", "do_sample=false"]
        run = load([str(EXAMPLES / "api_vllm.yaml"), *told], "api")
        request = Request(Conversation((message("user", "Hello"),)), run.generate)
        answers = [
            list(load_served(run, "mine").engine.generate(request))[-1],
            list(HfEngine(module, codec).generate(request))[-1],
        ]
    assert answers[0].answer == answers[1].answer
    assert server.asked[0]["max_tokens"] == 4


def test_chat_api_and_export_use_what_was_trained(llama3: str, tmp_path: Path, here, capsys):
    adapter, merged = tmp_path / "adapter", tmp_path / "merged"
    assert train(EXAMPLES / "lora_sft.yaml", llama3, adapter) == 0
    trained = [f"model_name_or_path={llama3}", f"adapter_name_or_path={adapter}"]
    capsys.readouterr()
    assert (
        cli.main(["chat", str(EXAMPLES / "chat.yaml"), *trained, "max_new_tokens=4", "do_sample=false", "--ask", "Hello?"]) == 0
    )
    from_adapter = capsys.readouterr().out
    predicted = tmp_path / "predicted"
    assert train(EXAMPLES / "predict.yaml", llama3, predicted, f"adapter_name_or_path={adapter}", "max_new_tokens=4") == 0
    answers = (predicted / "generated_predictions.jsonl").read_text().split("\n")[:-1]
    assert len(answers) == len(json.loads((EXAMPLES / "data" / "tasks.json").read_text()))
    run = load([str(EXAMPLES / "api.yaml"), *trained, "max_new_tokens=4", "do_sample=false"], "api")
    engine = load_served(run, "mine", num_together=2).engine
    *_, last = engine.generate(Request(Conversation((message("user", "Hello?"),)), run.generate))
    assert engine.num_together == 2 and last.answer.message.text == from_adapter.removesuffix("\n")
    assert cli.main(["export", str(EXAMPLES / "export.yaml"), *trained, f"export_dir={merged}"]) == 0
    assert LlamaForCausalLM.from_pretrained(merged).config.vocab_size == len(AutoTokenizer.from_pretrained(merged))
    capsys.readouterr()
    whole = [f"model_name_or_path={merged}", "adapter_name_or_path=null", "max_new_tokens=4", "do_sample=false"]
    assert cli.main(["chat", str(EXAMPLES / "chat.yaml"), *whole, "--ask", "Hello?"]) == 0
    assert capsys.readouterr().out == from_adapter


def test_it_is_exported_for_llamacpp(llama3: str, tmp_path: Path, here, capsys):
    pytest.importorskip("llama_cpp", reason="needs the extra gguf: pip install hone-llm[gguf] builds llama.cpp")
    said = [f"model_name_or_path={llama3}", "adapter_name_or_path=null", f"export_dir={tmp_path / 'out'}"]
    assert cli.main(["export", str(EXAMPLES / "export_gguf.yaml"), *said, f"tokenized_path={tmp_path / 'cache'}"]) == 0
    assert "parity passed (q4_k_m)" in capsys.readouterr().out


def test_it_is_exported_in_few_bits(llama3: str, tmp_path: Path, here, capsys):
    pytest.importorskip("compressed_tensors", reason="needs the extra compressed")
    said = [f"model_name_or_path={llama3}", "adapter_name_or_path=null", f"export_dir={tmp_path / 'out'}"]
    said += [f"tokenized_path={tmp_path / 'cache'}", "export_quantization_group=16", "export_quantization_nsamples=2"]
    assert cli.main(["export", str(EXAMPLES / "export_int4.yaml"), *said]) == 0
    assert "parity passed (int4)" in capsys.readouterr().out


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.yaml")), ids=lambda file: file.stem)
def test_it_says_what_it_shows(file: Path):
    first = file.read_text().splitlines()[0]
    assert first.startswith("# ") and len(first) > 40
    assert f"(../examples/{file.name})" in (PROJECT / "docs" / "examples.md").read_text()
