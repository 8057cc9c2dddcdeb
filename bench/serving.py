"""Tokens a second of `hone api` with answers drawn together and one by one, side by side: `python bench/serving.py`.

Every client streams an answer of its own seed over HTTP and holds it against the one that its request gets alone: a token that
is lost, or another client's, shows. Seconds are of the processor, server and clients together, as the clock of a shared machine
measures its other users; rounds alternate between the engines, and the ratio is of the medians.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import threading
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from hone.chat.codec import build_codec
from hone.config.api import ApiConfig
from hone.config.chat import ChatConfig
from hone.config.generate import GenerateConfig
from hone.inference.hf import HfEngine
from hone.inference.together import TogetherEngine
from hone.models.stand_in import stand_in_tokenizer
from hone.serving.app import build_app
from hone.serving.asked import Terms
from hone.serving.desk import Served
from hone.serving.server import open_socket, serve

LOUDER = 4.0
"""Times the weights of a random model, whose answers else hardly depend on what is asked."""


def random_model(tokenizer, width: int, layers: int) -> LlamaForCausalLM:
    """A random Llama in fp32. Every id has a text, as answers could else differ unseen, and answers follow from what is asked."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=int(2.75 * width), num_hidden_layers=layers,
        num_attention_heads=8, num_key_value_heads=4, max_position_embeddings=2048,
    )  # fmt: skip
    module = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for weight in module.parameters():
            weight.mul_(LOUDER if weight.ndim > 1 else 1)
    return module


def ask(port: int, seed: int, num_tokens: int) -> str:
    """One streamed answer; a length cannot be stopped short, so that all have as many tokens."""
    body = {
        "messages": [{"role": "user", "content": f"{seed} " * (1 + seed % 7)}], "stream": True, "seed": seed, "temperature": 1,
        "top_p": 1, "top_k": 0, "max_tokens": num_tokens,
    }  # fmt: skip
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    line.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    answer = line.getresponse()
    assert answer.status == 200, answer.read()
    events = answer.read().decode().split("\n\n")
    assert events[-2] == "data: [DONE]", "an answer was cut off"
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    return "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])


def round_of(port: int, num_clients: int, num_tokens: int, alone: dict[int, str]) -> tuple[float, float, int]:
    """Seconds of the processor and of the clock for one answer to each client, and how many answers differ from those alone."""
    answers: dict[int, str] = {}
    clients = [
        threading.Thread(target=lambda seed=seed: answers.update({seed: ask(port, seed, num_tokens)}))
        for seed in range(num_clients)
    ]
    begun, clock = time.process_time(), time.monotonic()
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    seconds = time.process_time() - begun, time.monotonic() - clock
    assert len(answers) == num_clients, "an answer was lost"
    for seed, answer in answers.items():
        alone.setdefault(seed, answer)
    return *seconds, sum(answer != alone[seed] for seed, answer in answers.items())


def start(engine: HfEngine) -> int:
    """Serve it; its port."""
    terms = Terms(GenerateConfig(), ApiConfig(api_max_waiting=1000))
    listening = open_socket("127.0.0.1", 0, key="")
    app = build_app(Served("random", engine=engine), terms, num_running=engine.num_together)
    options = {"name": type(engine).__name__, "seconds": 60, "tells": False}
    threading.Thread(target=serve, args=(app, listening), kwargs=options, daemon=True).start()
    return listening.getsockname()[1]


def main() -> None:
    """Print a line for each number of clients."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rows", type=int, default=32, help="answers drawn together")
    parser.add_argument("--tokens", type=int, default=32, help="of each answer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=6)
    wanted = parser.parse_args()
    tokenizer = stand_in_tokenizer("<s>", "</s>", ["<|im_start|>", "<|im_end|>"])
    module, codec = random_model(tokenizer, wanted.width, wanted.layers), build_codec(ChatConfig(template="qwen"), tokenizer)
    engines = {"together": TogetherEngine(module, codec, num_rows=wanted.rows), "one by one": HfEngine(module, codec)}
    ports = {name: start(engine) for name, engine in engines.items()}
    print(f"{sum(weight.numel() for weight in module.parameters()) / 1e6:.1f} M weights, {torch.get_num_threads()} threads")
    alone: dict[str, dict[int, str]] = {name: {} for name in engines}
    for name, port in ports.items():
        alone[name] = {seed: ask(port, seed, wanted.tokens) for seed in range(max(wanted.clients))}
    for num_clients in wanted.clients:
        found: dict[str, list[tuple[float, float, int]]] = {name: [] for name in engines}
        for _ in range(wanted.rounds):
            for name, port in ports.items():
                found[name].append(round_of(port, num_clients, wanted.tokens, alone[name]))
        rate = {
            name: [num_clients * wanted.tokens / statistics.median(row[i] for row in rows) for i in (0, 1)]
            for name, rows in found.items()
        }
        others = sum(row[2] for row in found["together"])
        print(
            f"{num_clients:>3} clients: together {rate['together'][0]:8.1f} tokens a second of processor, one by one "
            f"{rate['one by one'][0]:8.1f}: {rate['together'][0] / rate['one by one'][0]:5.2f} times "
            f"({rate['together'][1] / rate['one by one'][1]:5.2f} by the clock); {others} of {num_clients * wanted.rounds} "
            "answers differ from those alone"
        )


if __name__ == "__main__":
    main()
