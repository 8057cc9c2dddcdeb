"""Tokens a second of `hone api` beside LLaMA-Factory's api, on one model in one run: `python bench/serving_peer.py`.

Both serve one random Llama in fp32 from its folder, one thread each, and are asked the same prompts greedily over HTTP, streamed,
round by round in turn. LLaMA-Factory answers one request at a time as it comes (MAX_CONCURRENT 1), and again with as many at once
as there are clients at most, in threads. Seconds of processor are of the server's process alone, as the clock of a shared machine
measures its other users; the time to the first words is by the clock. Answers are held against hone's. The model draws bytes
alone and never ends by itself, so that all have as many tokens.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from environments import ENVIRONMENTS, python_of

from hone.models.stand_in import stand_in_tokenizer
from serving import random_model

TICKS = os.sysconf("SC_CLK_TCK")
SYSTEM = "You answer."
NUM_BYTES = 256


@dataclass
class Server:
    """A running one. process: its id; rounds: by number of clients, (seconds of processor, of the clock, [to first words])."""

    name: str
    port: int
    process: int
    answers: dict[int, str] = field(default_factory=dict)
    rounds: dict[int, list[tuple[float, float, list[float]]]] = field(default_factory=dict)


def body_of(number: int, num_tokens: int) -> dict[str, object]:
    """The request of a prompt."""
    words = " ".join(str(number * 37 % 101 + place) for place in range(1 + number % 7))
    return {
        "model": "gpt-3.5-turbo", "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": words}],
        "do_sample": False, "max_tokens": num_tokens,
    }  # fmt: skip


def ask(port: int, number: int, num_tokens: int) -> tuple[str, float]:
    """A streamed answer and the seconds to its first words."""
    body = body_of(number, num_tokens) | {"stream": True}
    line, begun, first, said = http.client.HTTPConnection("127.0.0.1", port, timeout=600), time.monotonic(), None, ""
    line.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    answer = line.getresponse()
    assert answer.status == 200, answer.read()
    for event in answer:
        if not event.startswith(b"data: {"):
            continue
        for choice in json.loads(event[6:])["choices"]:
            if piece := choice["delta"].get("content"):
                first, said = first or time.monotonic() - begun, said + piece
    line.close()
    return said, first if first is not None else time.monotonic() - begun


def processor(process: int) -> float:
    """Seconds that a process has computed."""
    told = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(told[11]) + int(told[12])) / TICKS


def play(server: Server, num_clients: int, num_tokens: int) -> None:
    """One round: each client asks once."""
    found: dict[int, tuple[str, float]] = {}
    clients = [
        threading.Thread(target=lambda number=number: found.update({number: ask(server.port, number, num_tokens)}))
        for number in range(num_clients)
    ]
    before, clock = processor(server.process), time.monotonic()
    for one in clients:
        one.start()
    for one in clients:
        one.join()
    assert len(found) == num_clients, "an answer was lost"
    server.answers |= {number: said for number, (said, _) in found.items()}
    seconds = processor(server.process) - before, time.monotonic() - clock
    server.rounds.setdefault(num_clients, []).append((*seconds, [first for _, first in found.values()]))


@contextmanager
def started(name: str, command: list[str], at_once: int, folder: Path) -> Iterator[Server]:
    """The server of a command once it answers, until the block ends."""
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        port = place.getsockname()[1]
    said = {"API_HOST": "127.0.0.1", "API_PORT": str(port), "MAX_CONCURRENT": str(at_once), "OMP_NUM_THREADS": "1"}
    quiet = {"HF_HUB_OFFLINE": "1", "API_VERBOSE": "0", "CUDA_VISIBLE_DEVICES": ""}
    log = (folder / f"{name}.log").open("wb")
    child = subprocess.Popen(command, env=os.environ | said | quiet, stdout=log, stderr=log, start_new_session=True)
    try:
        for _ in range(600):
            assert child.poll() is None, (folder / f"{name}.log").read_text()[-2000:]
            with socket.socket() as place:
                if place.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.5)
        yield Server(name, port, child.pid)
    finally:
        os.killpg(child.pid, signal.SIGTERM)
        child.wait()


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--tokens", type=int, default=24, help="most of each answer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        folder, most = Path(place), max(wanted.clients)
        tokenizer = stand_in_tokenizer("", "<|im_end|>", ["<|im_start|>"])
        module = random_model(tokenizer, wanted.width, wanted.layers)
        with torch.no_grad():
            module.lm_head.weight[NUM_BYTES:] = 0  # control tokens, of which one server shows more than the other
        module.save_pretrained(folder / "model")
        tokenizer.save_pretrained(folder / "model")
        told = {"model_name_or_path": str(folder / "model"), "template": "qwen", "infer_dtype": "float32"}
        (folder / "run.yaml").write_text("\n".join(f"{key}: {value}" for key, value in told.items()))
        file = str(folder / "run.yaml")
        peer = str(python_of("llamafactory", wanted.environments))
        commands = {
            "hone": ([sys.executable, "-m", "hone", "api", file], most),
            "LLaMA-Factory": ([peer, "-m", "llamafactory.cli", "api", file], 1),
            f"LLaMA-Factory, {most} at once": ([peer, "-m", "llamafactory.cli", "api", file], most),
        }
        servers = [stack.enter_context(started(name, *how, folder)) for name, how in commands.items()]
        for server in servers:
            play(server, 1, wanted.tokens)  # warm
            server.rounds.clear()
        for num_clients in wanted.clients:
            for _ in range(wanted.rounds):
                for server in servers:
                    play(server, num_clients, wanted.tokens)
            tell(servers, num_clients, num_clients * wanted.tokens)


def tell(servers: list[Server], num_clients: int, num_tokens: int) -> None:
    """A line a server; num_tokens: of all answers of a round."""
    ours = servers[0]
    for server in servers:
        rounds = server.rounds[num_clients]
        cpu, clock = (num_tokens / statistics.median(row[i] for row in rounds) for i in (0, 1))
        first = statistics.median(seconds for row in rounds for seconds in row[2])
        equal = sum(server.answers[number] == ours.answers[number] for number in range(num_clients))
        print(
            f"{num_clients:>3} clients, {server.name:<28} {cpu:8.1f} tokens a second of processor, {clock:8.1f} by the clock, "
            f"first words after {first:6.2f} s; {equal} of {num_clients} answers are hone's",
            flush=True,
        )


if __name__ == "__main__":
    main()
