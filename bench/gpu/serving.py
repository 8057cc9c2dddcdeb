"""hone's engines side by side on a GPU: `python bench/gpu/serving.py --model PLACE --vllm ~/envs/vllm --sglang ~/envs/sglang`.

The embedded engine, vLLM and SGLang, where their environments are named, answer the same prompts greedily, each in a process of
its own, one after the other, as one has the memory. Told are tokens a second and the median time to the first token with 1, 8, 32
and 128 answers under way, and how many answers are those of the embedded engine, token by token.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

from hone.chat.message import Conversation, message
from hone.config import load
from hone.inference.base import Request
from hone.inference.build import build_engine
from hone.inference.servers.launch import SERVERS

TOPICS = "rain, copper, bridges, the moon, chess, bread, tides, glass, maps, bees, paper, salt, clocks, ice, sails, owls".split(
    ", "
)


def requests_of(run: object, num: int) -> list[Request]:
    """Prompts of different lengths, all greedy."""
    asked = [f"Tell me {1 + place // len(TOPICS)} things about {TOPICS[place % len(TOPICS)]}." for place in range(num)]
    greedy = run.generate.model_copy(update={"do_sample": False})
    return [Request(Conversation((message("user", text),)), greedy) for text in asked]


def answered(engine: object, requests: list[Request], at_once: int) -> tuple[list[str], int, float, list[float]]:
    """Texts, tokens, seconds, and seconds to each first token, with `at_once` under way."""
    texts, counts, firsts, left = [""] * len(requests), [], [], list(enumerate(requests))
    lock, begun = threading.Lock(), time.monotonic()

    def client() -> None:
        while True:
            with lock:
                if not left:
                    return
                place, request = left.pop(0)
            asked, first = time.monotonic(), None
            for delta in engine.generate(request):
                first = first or time.monotonic() - asked
                texts[place] += delta.text
            with lock:
                counts.append(delta.answer.num_tokens)
                firsts.append(first)

    clients = [threading.Thread(target=client) for _ in range(at_once)]
    for one in clients:
        one.start()
    for one in clients:
        one.join()
    return texts, sum(counts), time.monotonic() - begun, firsts


def run_engine(arguments: list[str], clients: list[int], num: int) -> None:
    """Print one engine's figures as a line of JSON."""
    run = load(arguments, "chat")
    engine = build_engine(run.model, run.chat, run.adapter, serve=run.serve, num_together=max(clients))
    requests = requests_of(run, num)
    answered(engine, requests[: max(clients)], max(clients))  # kernels and graphs are made
    texts, rows = [], []
    for at_once in clients:
        texts, tokens, seconds, firsts = answered(engine, requests, at_once)
        rows.append([at_once, tokens / seconds, statistics.median(firsts)])
    print(json.dumps({"texts": texts, "rows": rows}), flush=True)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--vllm", help="the environment in which vLLM is installed")
    parser.add_argument("--sglang", help="the environment in which SGLang is installed")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32, 128])
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--further", nargs="*", default=[], help="settings of hone for all of them, key=value")
    for name in SERVERS:
        parser.add_argument(f"--{name}-further", nargs="*", default=[], help=f"settings of hone for {name} alone")
    parser.add_argument("--engine", nargs="*", help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.engine is not None:
        run_engine(wanted.engine, wanted.clients, wanted.prompts)
        return
    engines = {"huggingface": []}
    engines |= {
        name: [f"infer_backend={name}", f"infer_environment={Path(place).expanduser()}", *vars(wanted)[f"{name}_further"]]
        for name in SERVERS
        if (place := vars(wanted)[name])
    }
    alone: list[str] = []
    print("| engine | answers under way | tokens a second | median seconds to the first token | answers equal |")
    print("|---|---|---|---|---|")
    for name, words in engines.items():
        settings = [f"model_name_or_path={wanted.model}", f"max_new_tokens={wanted.tokens}", *words, *wanted.further]
        same = ["--clients", *map(str, wanted.clients), "--prompts", str(wanted.prompts), "--model", wanted.model]
        child = [sys.executable, __file__, *same, "--engine", *settings]
        found = json.loads(subprocess.run(child, stdout=subprocess.PIPE, check=True, text=True).stdout.splitlines()[-1])
        alone = alone or found["texts"]
        equal = sum(one == other for one, other in zip(found["texts"], alone, strict=True))
        for at_once, rate, first in found["rows"]:
            print(f"| {name} | {at_once} | {rate:.1f} | {first:.3f} | {equal} of {len(alone)} |", flush=True)


if __name__ == "__main__":
    main()
