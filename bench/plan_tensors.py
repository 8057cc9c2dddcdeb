"""The plan's memory beside what torch's CPU allocator gave, and its time: `python bench/plan_tensors.py [word ...]`.

Only cases whose names hold every word given are run, "large qwen3 lora"; "2/8" runs the second of eight shares of them. Knows no
formula: each case is a run of two steps in this process, whose weights and buffers are summed up and whose allocations in
those steps are added up by torch's profiler. All rows are alike, so every micro-batch is the largest. Models are random, of 3 to
50 M weights; a process takes up to 1.5 GB. Steps are timed under the profiler, which slows them.
"""

from __future__ import annotations

import contextlib
import gc
import io
import itertools
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from plan_memory import WORDS, make_tokenizer
from torch._subclasses.fake_tensor import FakeTensor
from torch.profiler import ProfilerActivity, profile
from transformers import AutoConfig, AutoModelForCausalLM

from hone.config import load
from hone.models import checkpointing
from hone.training import loop, prepare, session
from hone.training.planning import forecast

FAMILIES = {
    "llama": {},
    "qwen3": {},
    "gemma2": {},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 704},
}
SIZES = {  # hidden, wide, layers, vocabulary
    "small": (256, 704, 6, 4000),
    "large": (512, 1408, 12, 8000),
}
METHODS: dict[str, dict[str, Any]] = {
    "lora": {"finetuning_type": "lora", "lora_target": "all"},
    "qlora": {"finetuning_type": "lora", "lora_target": "all", "quantization_bit": 4},
    "freeze": {"finetuning_type": "freeze", "freeze_trainable_layers": 2},
    "full": {"finetuning_type": "full"},
}
KINDS: dict[str, dict[str, Any]] = {
    "kept": {"gradient_checkpointing": False},
    "selective": {"gradient_checkpointing": True, "gradient_checkpointing_kind": "selective"},
    "full": {"gradient_checkpointing": True, "gradient_checkpointing_kind": "full"},
    "tiled": {"gradient_checkpointing": True, "gradient_checkpointing_kind": "full"},
}
TILE = 64
"""Tokens that feed-forward layers and norms take at a time in "tiled"; in the others all of a micro-batch, which are few."""
TYPES = {"fp32": {}, "bf16": {"bf16": True}}
PARTS = ("weights", "adapters", "gradients", "optimizer", "activations", "logits")


@dataclass(frozen=True)
class Found:
    """Bytes by the plan and as measured; seconds of a step by the plan and as measured (median, without the first).

    weights: how many the model has; from_layers: whether the plan rehearsed them. beside, reserved: bytes that the allocator was
    to hold beside the tensors, by the plan, and what it held with them at most; of an accelerator.
    """

    said: int
    peak: int
    expected: float
    seconds: float
    weights: int
    from_layers: bool
    beside: int = 0
    reserved: int = 0

    @property
    def ratio(self) -> float:
        """The plan's bytes over what was measured."""
        return self.said / self.peak


HEAD = f"{'case':<36}{'weights':>9}{'plan':>9}{'measured':>10}{'ratio':>8}"


def line_of(case: str, found: Found) -> str:
    """Weights in millions, MiB by the plan and measured, and how the plan was made where it was not rehearsed."""
    numbers = f"{found.weights / 1e6:>8.1f}M{found.said / 2**20:>9.1f}{found.peak / 2**20:>10.1f}{found.ratio:>8.3f}"
    return f"{case:<36}{numbers}" + ("" if found.from_layers else "  formula")


def chosen_of(cases: Iterable[str], words: Iterable[str]) -> list[str]:
    """The cases whose names hold every word, or of those the share that a word like "2/8" says."""
    shares = [tuple(map(int, word.split("/"))) for word in words if "/" in word]
    found = [case for case in cases if all(word in case.split() for word in words if "/" not in word)]
    for number, among in shares:
        found = found[len(found) * (number - 1) // among : len(found) * number // among]
    return found


def make_inputs(folder: Path, families: Iterable[str] = FAMILIES, sizes: Iterable[str] = SIZES) -> None:
    """A model of each family and size, and rows of about 230 tokens, all alike."""
    tokenizer = make_tokenizer()
    for family, size in itertools.product(families, sizes):
        own, (hidden, wide, layers, vocabulary) = FAMILIES[family], SIZES[size]
        common = {
            "vocab_size": vocabulary, "hidden_size": hidden, "intermediate_size": wide, "num_hidden_layers": layers,
            "num_attention_heads": hidden // 64, "num_key_value_heads": hidden // 128, "head_dim": 64,
            "tie_word_embeddings": False,
        }  # fmt: skip
        config = AutoConfig.for_model(family, **{**common, **own})
        # Gemma 2 takes id 0 for padding, whose embedding is 0: norms behind every layer would multiply its gradient beyond fp32.
        config.pad_token_id = vocabulary - 1
        AutoModelForCausalLM.from_config(config).save_pretrained(folder / f"{family}-{size}")
        tokenizer.save_pretrained(folder / f"{family}-{size}")
    make_rows(folder)


def make_rows(folder: Path) -> None:
    """Of about 230 tokens, all alike."""
    rows = [{"instruction": "Say", "output": " ".join(random.Random(0).choices(WORDS, k=200))}] * 12
    (folder / "rows.json").write_text(json.dumps(rows))
    entry = {"file_name": "rows.json", "columns": {"prompt": "instruction", "response": "output"}}
    (folder / "dataset_info.json").write_text(json.dumps({"rows": entry}))


class _Enough(Exception):
    """The steps are taken; writing the model is not what is measured."""


@contextlib.contextmanager
def timed(steps: int) -> Iterator[list[float]]:
    """Seconds of so many steps, after which the run ends: of this process's CPU, or by the clock where an accelerator works."""
    found: list[float] = []
    now = time.perf_counter if torch.cuda.is_available() else time.process_time
    whole = loop.take_step

    def step(*arguments: Any, **named: Any) -> Any:
        start = now()
        result = whole(*arguments, **named)
        found.append(now() - start)
        if len(found) == steps:
            raise _Enough
        return result

    loop.take_step = step
    try:
        with contextlib.suppress(_Enough):
            yield found
    finally:
        loop.take_step = whole


def measure(folder: Path, model: str, settings: dict[str, Any], *, cuda: bool) -> Found:
    """A run of two steps, the second of which finds the optimizer's states there."""
    settings = {
        "model_name_or_path": model, "template": "chatml", "stage": "sft", "do_train": True, "dataset": "rows",
        "dataset_dir": ".", "tokenized_path": "cache", "cutoff_len": 1024, "output_dir": "out",
        "overwrite_output_dir": True, "max_steps": 2,
        "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1, "save_strategy": "no", "report_to": "none",
        "use_cpu": not cuda, "disable_tqdm": True, "learning_rate": 1e-9,
    } | settings  # fmt: skip
    (folder / "run.json").write_text(json.dumps(settings))
    if cuda:
        gc.collect()
        torch.cuda.empty_cache()  # what an earlier case had reserved is none of this one's
        torch.cuda.reset_peak_memory_stats()
    with contextlib.redirect_stderr(io.StringIO()):
        made = prepare.prepare(load(["run.json"], "train"), settings="")
        assert not isinstance(made, str), made
        before = alive()
        watch = contextlib.nullcontext() if cuda else profile(activities=[ProfilerActivity.CPU], profile_memory=True)
        with watch as seen, timed(settings["max_steps"]) as seconds:
            session.carry_out(made)
    said = made.plan.memory.total - made.plan.memory.libraries - made.plan.memory.fragmentation
    peak = torch.cuda.max_memory_allocated() if cuda else before + most(seen)
    plan, reserved = made.plan, torch.cuda.max_memory_reserved() if cuda else 0
    told = plan.step_seconds, statistics.median(seconds[1:]), plan.num_weights, plan.from_layers
    return Found(said, peak, *told, plan.memory.fragmentation, reserved)


def alive() -> int:
    """Bytes of all tensors with memory that this process holds: models, and what stands beside them."""
    gc.collect()
    found = [one for one in gc.get_objects() if isinstance(one, torch.Tensor) and not isinstance(one, FakeTensor)]
    stores = {one.untyped_storage()._cdata: one.untyped_storage().nbytes() for one in found if one.device.type == "cpu"}
    return sum(stores.values())


def most(seen: profile) -> int:
    """The highest sum of allocations without those given back."""
    events = [one for one in seen.profiler.kineto_results.events() if one.name() == "[memory]"]
    return int(np.cumsum([one.nbytes() for one in sorted(events, key=lambda one: one.start_ns())]).max())


def main(words: list[str]) -> None:
    """One line a case: MiB by the plan and measured, seconds a step by the plan and measured; at the end how far off they are."""
    print(f"{'case':<36}{'plan':>9}{'measured':>10}{'ratio':>8}{'plan':>9}{'a step':>9}{'ratio':>7}")
    off, slow, at_once = [], [], checkpointing.tokens_at_once
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chdir(folder)
        make_inputs(folder, *([one for one in many if one in words] or many for many in (FAMILIES, SIZES)))
        every = {" ".join(case): case for case in itertools.product(SIZES, FAMILIES, METHODS, KINDS, TYPES)}
        for case in chosen_of(every, words):
            size, family, method, kind, dtype = every[case]
            changes = {**METHODS[method], **KINDS[kind], **TYPES[dtype]}
            forecast._passes.clear()
            checkpointing.tokens_at_once = (lambda module, width: TILE) if kind == "tiled" else at_once
            found = measure(folder, f"{family}-{size}", changes, cuda=False)
            off.append(found.ratio)
            slow.append(found.expected / found.seconds)
            print(f"{case:<36}{found.said / 2**20:>9.1f}{found.peak / 2**20:>10.1f}{off[-1]:>8.3f}{found.expected:>9.3f}"
                  f"{found.seconds:>9.3f}{slow[-1]:>7.2f}", flush=True)  # fmt: skip
    print(f"{len(off)} cases; memory {min(off):.3f} to {max(off):.3f}; time, median {statistics.median(slow):.2f}, "
          f"{min(slow):.2f} to {max(slow):.2f}")  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
