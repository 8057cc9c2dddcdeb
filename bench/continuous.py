"""Answers drawn together by hone, by transformers' own manager, and one by one: `python bench/continuous.py`.

One random Llama in one process, no HTTP: the same prompts greedily, round by round in turn. Seconds are of the processor. The
manager is that of `generate_batch`, kept from round to round.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections.abc import Callable

import torch
from transformers import GenerationConfig, PreTrainedModel
from transformers.generation import ContinuousBatchingConfig

from hone.chat.codec import Codec, build_codec
from hone.chat.message import Conversation, message
from hone.config.chat import ChatConfig
from hone.config.generate import GenerateConfig
from hone.inference.base import Request
from hone.inference.hf import HfEngine
from hone.inference.together import TogetherEngine
from hone.models.stand_in import stand_in_tokenizer
from serving import random_model

Answers = list[list[int]]


def by_hone(engine: HfEngine, requests: list[Request]) -> Answers:
    """Ids of each answer, asked by a thread of its own."""
    found: dict[int, list[int]] = {}

    def one(place: int) -> None:
        asked = requests[place]
        found[place] = list(engine._ids(asked, engine._asked(asked), asked.settings.max_new_tokens, None))

    clients = [threading.Thread(target=one, args=(place,)) for place in range(len(requests))]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    return [found[place] for place in range(len(requests))]


def by_manager(module: PreTrainedModel, codec: Codec, requests: list[Request]) -> Answers:
    """Ids of each answer, by transformers' manager."""
    most = requests[0].settings.max_new_tokens
    settings = GenerationConfig(do_sample=False, max_new_tokens=most, eos_token_id=list(codec.stop_ids), pad_token_id=0)
    prompts = [codec.prompt(request.conversation) for request in requests]
    sizes = ContinuousBatchingConfig(max_memory_percent=0.02, auto_switch_to_flash=False)
    found = module.generate_batch(prompts, generation_config=settings, continuous_batching_config=sizes, persistent_manager=True)
    answers = sorted(found.values(), key=lambda answer: int(answer.request_id.removeprefix("req_")))
    return [answer.generated_tokens for answer in answers]


def main() -> None:
    """Print a line for each number of requests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=6)
    wanted = parser.parse_args()
    tokenizer = stand_in_tokenizer("<s>", "</s>", ["<|im_start|>", "<|im_end|>"])
    codec = build_codec(ChatConfig(template="qwen"), tokenizer)
    together = TogetherEngine(random_model(tokenizer, wanted.width, wanted.layers), codec, num_rows=max(wanted.requests))
    alone = HfEngine(random_model(tokenizer, wanted.width, wanted.layers), codec)
    managed = random_model(tokenizer, wanted.width, wanted.layers)
    ways: dict[str, Callable[[list[Request]], Answers]] = {
        "hone together": lambda asked: by_hone(together, asked),
        "the manager": lambda asked: by_manager(managed, codec, asked),
        "one by one": lambda asked: by_hone(alone, asked),
    }
    settings = GenerateConfig(do_sample=False, max_new_tokens=wanted.tokens)
    for num in wanted.requests:
        asked = [Request(Conversation((message("user", f"{place} " * (1 + place % 7)),)), settings) for place in range(num)]
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        answers = {name: draw(asked) for name, draw in ways.items()}  # warm
        for _ in range(wanted.rounds):
            for name, draw in ways.items():
                begun = time.process_time()
                draw(asked)
                seconds[name].append(time.process_time() - begun)
        for name in ways:
            tokens = sum(map(len, answers[name]))
            equal = sum(one == other for one, other in zip(answers[name], answers["one by one"], strict=True))
            rate = tokens / statistics.median(seconds[name])
            print(f"{num:>3} requests, {name:<14} {rate:8.1f} tokens a second of processor; {equal} of {num} answers equal")


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
