"""Many clients that stream from one `hone api` for a long time: `python bench/soak.py --clients 64 --minutes 10`.

The server is a process of its own around a small random model in fp64, in which no rounding turns one token into another. What
each request is answered is noted before, one request at a time; then every streamed answer is held against it, so that a token
that is lost, or another client's, shows. Some clients leave in the middle of their answers; at the end nobody may hold a turn.
The server's memory (RSS) is read every 10 seconds.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import torch

from hone.chat.codec import build_codec
from hone.config.api import ApiConfig
from hone.config.chat import ChatConfig
from hone.config.generate import GenerateConfig
from hone.inference.together import TogetherEngine
from hone.models.stand_in import stand_in_tokenizer
from hone.serving.app import build_app
from hone.serving.asked import Terms
from hone.serving.desk import Served
from hone.serving.server import open_socket, serve

EVERY = 10.0
"""Seconds between two looks at the server's memory."""
LEAVING = 0.15
"""Share of the answers whose client leaves before their end."""
PROMPTS = 256


@dataclass
class Found:
    """What all clients saw; written under `lock`."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    counts: Counter = field(default_factory=Counter)
    first: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def body_of(number: int) -> dict:
    """The request of a prompt: lengths of prompt and answer differ from one to the next."""
    words = " ".join(str(number * 31 % 997 + place) for place in range(1 + number % 9))
    asked = {"messages": [{"role": "user", "content": words}], "temperature": 0, "max_tokens": 8 + number * 7 % 33}
    return asked | {"stream": True}


def pieces_of(port: int, number: int) -> Iterator[str]:
    """The texts of a streamed answer as they come; closing it hangs up. Raises AssertionError where it breaks off."""
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    try:
        line.request("POST", "/v1/chat/completions", json.dumps(body_of(number)), {"Content-Type": "application/json"})
        answer = line.getresponse()
        assert answer.status == 200, f"{answer.status}: {answer.read()[:200]!r}"
        finished = False
        for event in answer:
            if event.strip() == b"data: [DONE]":
                assert finished, "no chunk says why the answer ended"
                return
            if event.startswith(b"data: "):
                chunk = json.loads(event[6:])
                assert "error" not in chunk, chunk
                for choice in chunk["choices"]:
                    finished = finished or bool(choice["finish_reason"])
                    yield choice["delta"].get("content", "")
        raise AssertionError("an answer broke off")
    finally:
        line.close()


def client(port: int, name: int, expected: list[str], end: float, found: Found) -> None:
    """Ask, listen and compare until the end."""
    chance = random.Random(name)
    while time.monotonic() < end:
        number, leaves = chance.randrange(PROMPTS), chance.random() < LEAVING
        most = chance.randrange(1, 8) if leaves else None
        begun, said, first = time.monotonic(), "", None
        try:
            with closing(pieces_of(port, number)) as pieces:
                for place, piece in enumerate(pieces, start=1):
                    first = first or time.monotonic() - begun
                    said += piece
                    if place == most:
                        break
        except (AssertionError, OSError, http.client.HTTPException) as problem:
            with found.lock:
                found.counts["lost"] += 1
                found.wrong.append(f"prompt {number}: {type(problem).__name__} {problem}")
            continue
        right = expected[number].startswith(said) if leaves else said == expected[number]
        with found.lock:
            found.counts["left early" if leaves else "whole"] += 1
            found.counts["mixed"] += not right
            found.counts["characters"] += len(said)
            found.first.append(first)
            if not right:
                found.wrong.append(f"prompt {number}: {said!r}, and alone {expected[number]!r}")


def memory(process: int) -> float:
    """MiB that a process holds in memory."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def gauges(port: int) -> dict[str, float]:
    """The server's own numbers."""
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    line.request("GET", "/metrics")
    page = line.getresponse().read().decode()
    return {name: float(value) for name, _, value in (row.partition(" ") for row in page.splitlines()) if name.isidentifier()}


def run_server(rows: int, width: int, layers: int) -> None:
    """Serve on a free port, which is the first line of output."""
    from serving import random_model  # beside this file

    tokenizer = stand_in_tokenizer("<s>", "</s>", ["<|im_start|>", "<|im_end|>"])
    module = random_model(tokenizer, width, layers).to(torch.float64)
    engine = TogetherEngine(module, build_codec(ChatConfig(template="qwen"), tokenizer), num_rows=rows)
    listening = open_socket("127.0.0.1", 0, key="")
    app = build_app(Served("random", engine=engine), Terms(GenerateConfig(), ApiConfig(api_max_waiting=1000)), num_running=rows)
    print(listening.getsockname()[1], flush=True)
    serve(app, listening, name="soak", seconds=60, tells=False)


def report(found: Found, held: list[float], minutes: float, now: dict[str, float]) -> bool:
    """Print what was seen; whether all of it is as it should be."""
    counts, per_minute = found.counts, max(1, int(60 / EVERY))
    before, after = statistics.fmean(held[:per_minute]), statistics.fmean(held[-per_minute:])
    turns = now["hone_requests_running"] + now["hone_requests_waiting"]
    first = sorted(found.first)
    print(
        f"{minutes:g} minutes: {counts['whole']} whole answers, {counts['left early']} left early; {counts['lost']} lost, "
        f"{counts['mixed']} mixed; {counts['characters']} characters streamed\n"
        f"first words after {statistics.median(first):.2f} s (median), {first[int(len(first) * 0.99)]:.2f} s (of 99 in 100)\n"
        f"server's memory: {before:.0f} MiB in the first minute, {after:.0f} MiB in the last, {max(held):.0f} MiB at most\n"
        f"at the end {turns:g} turns are held"
    )
    for line in found.wrong[:10]:
        print(line)
    return not (counts["lost"] or counts["mixed"] or turns)


def main() -> None:
    """Exit with 1 where an answer is lost or mixed, or a turn does not come back."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--rows", type=int, default=32, help="answers drawn together; further clients wait in line")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.serve:
        run_server(wanted.rows, wanted.width, wanted.layers)
        return
    server = subprocess.Popen([sys.executable, __file__, "--serve", *sys.argv[1:]], stdout=subprocess.PIPE, text=True)
    try:
        port = int(server.stdout.readline())
        expected = ["".join(pieces_of(port, number)) for number in range(PROMPTS)]
        assert len(set(expected)) > PROMPTS / 2, f"{len(set(expected))} different answers: others could be mixed unseen"
        found, held, end = Found(), [], time.monotonic() + 60 * wanted.minutes
        clients = [threading.Thread(target=client, args=(port, name, expected, end, found)) for name in range(wanted.clients)]
        for one in clients:
            one.start()
        while time.monotonic() < end:
            time.sleep(min(EVERY, max(0.0, end - time.monotonic())))
            held.append(memory(server.pid))
        for one in clients:
            one.join()
        time.sleep(2)  # who left is noticed at the next token
        sys.exit(not report(found, held, wanted.minutes, gauges(port)))
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
