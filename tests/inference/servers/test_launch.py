"""How a server is started: its words, what is refused before, and that it never outlives who started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tests.serving.servers import until

from hone.adapters.folder import AdapterFolder
from hone.config.adapter import Full, Lora
from hone.config.chat import ChatConfig
from hone.config.model import ModelConfig
from hone.config.serve import ServeConfig
from hone.errors import ModelError
from hone.inference.build import build_engine
from hone.inference.servers.launch import Room, sglang_words, vllm_words
from hone.inference.servers.started import StartedServer, free_port

MODEL = ModelConfig(model_name_or_path="/m", trust_remote_code=True)
ADAPTER = AdapterFolder(Path("/a"), {"peft_type": "LORA", "r": 8, "rank_pattern": {"q_proj": 96}})

FAKE = """
import json, os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        said = json.dumps({"version": "0.32.0", "data": [{"id": "m", "max_model_len": 77}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_): pass

print("arguments", *sys.argv[1:], "key", len(os.environ["VLLM_API_KEY"]), flush=True)
if "--bad" in sys.argv:
    sys.exit("no such setting")
HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""


@pytest.fixture
def environment(tmp_path):
    """A folder whose bin/vllm is a program that answers as vLLM does to a GET."""
    program = tmp_path / "env" / "bin" / "vllm"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!{sys.executable}\n{FAKE}")
    program.chmod(0o755)
    return tmp_path / "env"


def pairs(words: list[str]) -> set[str]:
    """ "--name value" of each."""
    return set(" ".join(words).replace(" --", "\n--").split("\n"))


def test_the_words_are_the_settings():
    serve = ServeConfig(
        infer_backend="vllm", vllm_enforce_eager=True, vllm_config={"swap_space": 8, "kv_transfer_config": {"a": 1}}
    )
    words = vllm_words(MODEL, serve, Room(torch.bfloat16, 2048, ADAPTER, 3), 9)
    assert words[0] == "/m" and pairs(words[1:]) >= {
        "--host 127.0.0.1", "--port 9", "--dtype bfloat16", "--max-model-len 2048", "--gpu-memory-utilization 0.7",
        "--enforce-eager", "--generation-config vllm", "--enable-lora", "--max-lora-rank 32", "--max-loras 3",
        "--trust-remote-code", "--swap-space 8", '--kv-transfer-config {"a": 1}',
    }  # fmt: skip
    assert "--max-model-len 4096" in pairs(vllm_words(MODEL, ServeConfig(), Room(torch.float32, None, None, 0), 9))
    serve = ServeConfig(infer_backend="sglang", sglang_tp_size=2, sglang_config={"enable-deterministic-inference": True})
    assert pairs(sglang_words(MODEL, serve, Room(torch.float16, 9000, ADAPTER, 1), 9, "k")) >= {
        "--model-path /m", "--api-key k", "--context-length 4096", "--mem-fraction-static 0.7", "--tp-size 2", "--dtype float16",
        "--enable-lora", "--max-lora-rank 96", "--max-loras-per-batch 2", "--lora-backend triton", "--lora-target-modules all",
        "--enable-deterministic-inference",
    }  # fmt: skip


def test_what_a_server_cannot_be_told_is_refused_before_it_starts(tiny_model_dir, tmp_path):
    model = ModelConfig(model_name_or_path=str(tiny_model_dir))
    serve = ServeConfig(infer_backend="vllm", infer_environment=str(tmp_path))
    for changed, words in (
        (
            {"rope_scaling": "linear", "add_tokens": ("<x>",)},
            "rope_scaling, add_tokens: vllm reads the model's files as they are",
        ),
        ({}, "there is no program .*bin/vllm; install vllm there"),
    ):
        with pytest.raises(ModelError, match=words):
            build_engine(model.model_copy(update=changed), ChatConfig(), Full(), serve=serve)
    with pytest.raises(ModelError, match=r"vllm_config: max_model_len \(write vllm_maxlen\), port \(hone sets it\)"):
        wrong = serve.model_copy(update={"vllm_config": {"max_model_len": 5, "port": 1}})
        build_engine(model, ChatConfig(), Full(), serve=wrong)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text('{"peft_type": "LORA"}')
        (tmp_path / name / "adapter_model.safetensors").touch()
    (tmp_path / "a" / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 64}')
    with pytest.raises(ModelError, match="has rank 64; write vllm_max_lora_rank: 64"):
        build_engine(model, ChatConfig(), Lora(adapter_name_or_path=(str(tmp_path / "a"),)), serve=serve)
    two = Lora(adapter_name_or_path=(str(tmp_path / "a"), str(tmp_path / "b")))
    with pytest.raises(ModelError, match="puts one adapter onto the base, and 2 are named"):
        build_engine(model, ChatConfig(), two, serve=serve)


def test_hone_starts_the_program_of_the_environment_and_waits_for_it(tiny_model_dir, environment, capsys):
    serve = ServeConfig(infer_backend="vllm", infer_environment=str(environment), vllm_maxlen=77)
    engine = build_engine(ModelConfig(model_name_or_path=str(tiny_model_dir)), ChatConfig(), Full(), serve=serve, num_together=5)
    assert (engine.num_together, engine._limit) == (5, 77)
    until(lambda: "vllm: arguments serve" in capsys.readouterr().err)
    with pytest.raises(ModelError, match=r"ended with status 1 before it answered\n.*\nno such setting"):
        build_engine(
            ModelConfig(model_name_or_path=str(tiny_model_dir)),
            ChatConfig(),
            Full(),
            serve=serve.model_copy(update={"vllm_config": {"bad": True}}),
        )


def is_open(port: int) -> bool:
    """Whether somebody listens there."""
    import socket

    with socket.socket() as place:
        return place.connect_ex(("127.0.0.1", port)) == 0


def test_a_server_ends_when_it_is_closed_and_when_its_starter_is_killed(environment):
    command = [str(environment / "bin" / "vllm"), "serve", "--port"]
    port = free_port()
    server = StartedServer("vllm", [*command, str(port)], {"VLLM_API_KEY": "k"}, f"http://127.0.0.1:{port}")
    server.wait()
    assert is_open(port)
    server.close()
    assert not is_open(port)
    starter = (
        "import sys, time; from hone.inference.servers.started import StartedServer\n"
        "StartedServer('vllm', sys.argv[2:], {'VLLM_API_KEY': 'k'}, f'http://127.0.0.1:{sys.argv[1]}').wait(); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", starter, str(port), *command, str(port)], stderr=subprocess.DEVNULL)
    until(lambda: is_open(port), 30)
    time.sleep(0.1)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    until(lambda: not is_open(port), 30)
