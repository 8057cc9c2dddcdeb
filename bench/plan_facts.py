"""What hone's plan says of jobs whose memory is publicly known, and of hone's own goals, of real config.json files:

`python bench/plan_facts.py FOLDER [word ...]`, only jobs whose title holds every word. Loads no weight and needs no GPU: it is
the plan of `hone check` for one sequence at once of the length given, without libraries and fragmentation. Attention is counted
as the memory-efficient kernel of the machine this runs on has it.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from plan_memory import make_tokenizer

from hone.chat.encoded import IGNORE, Encoded, Example
from hone.config import load
from hone.models.checkpointing import Activations
from hone.objectives.build import build_objective
from hone.training.planning.forecast import forecast
from hone.training.planning.memory import Memory

QLORA = {"quantization_bit": 4, "double_quantization": True, "lora_rank": 16, "lora_target": "all", "bf16": True}
LORA = {"lora_rank": 16, "lora_target": "all", "bf16": True}
JOBS: list[tuple[str, str, int, dict[str, Any]]] = [
    ("Llama-2-7B QLoRA, known to fit in 24 GB", "llama-2-7b", 2048, QLORA),
    ("Llama-2-7B QLoRA", "llama-2-7b", 8192, QLORA),
    ("Qwen2.5-72B QLoRA, known to fit in 48 GB", "qwen2.5-72b", 1024, QLORA),
    ("Qwen2.5-72B QLoRA", "qwen2.5-72b", 4096, QLORA),
    ("Llama-3-8B LoRA", "llama-3.1-8b", 2048, LORA),
    ("Llama-3-8B LoRA", "llama-3.1-8b", 32768, LORA),
    ("Llama-3-8B QLoRA", "llama-3.1-8b", 32768, QLORA),
]
SMALL = {**QLORA, "optim": "adamw_8bit"}
SMALLER = {**SMALL, "offload_embedding": True}
GOALS: list[tuple[str, str, int, dict[str, Any], Activations, float]] = [  # of one H200, in GiB
    ("goal: Llama-2-7B QLoRA", "llama-2-7b", 2048, SMALL, "full", 5.4),
    ("goal: Llama-3-8B QLoRA", "llama-3.1-8b", 2048, SMALL, "full", 6.0),
    ("goal: Llama-3-8B QLoRA, offload_embedding", "llama-3.1-8b", 2048, SMALLER, "full", 6.0),
    ("goal: Llama-3-8B QLoRA", "llama-3.1-8b", 16_384, SMALL, "full", 8.0),
    ("goal: Llama-3-8B QLoRA", "llama-3.1-8b", 16_384, SMALL, "offloaded", 8.0),
    ("goal: Llama-3-8B QLoRA, offload_embedding", "llama-3.1-8b", 16_384, SMALLER, "offloaded", 8.0),
    ("goal: Llama-3-8B QLoRA", "llama-3.1-8b", 32_768, SMALL, "offloaded", 8.0),
    ("goal: Llama-3-8B QLoRA, offload_embedding", "llama-3.1-8b", 32_768, SMALLER, "offloaded", 8.0),
]
KINDS: tuple[Activations, ...] = ("kept", "selective", "full", "offloaded")


class OneRow(list):
    """A data set of one sequence."""

    shows_media, join = False, None

    def __init__(self, length: int):
        labels = np.ones(length, np.int32)
        labels[0] = IGNORE
        super().__init__([Example((Encoded(np.ones(length, np.int32), labels),))])
        self.lengths, self.trained = np.array([length]), np.array([length - 1])


def find(folder: Path, name: str) -> Path:
    """The config whose file or folder is called so, whatever the case."""
    found = [one for one in folder.rglob("*.json") if name in f"{one.parent.name}/{one.name}".lower()]
    if not found:
        raise SystemExit(f"{folder} holds no config of {name}")
    return sorted(found, key=lambda one: len(str(one)))[0]


def plan(folder: Path, name: str, length: int, settings: dict[str, Any], kind: Activations) -> Memory:
    """What the plan says of one sequence of `length` tokens through the model whose config is called `name`."""
    with tempfile.TemporaryDirectory() as place:
        shutil.copy(find(folder, name), Path(place) / "config.json")
        make_tokenizer().save_pretrained(place)
        words = {"model_name_or_path": place, "stage": "sft", "dataset": "x", "output_dir": "o", "use_cpu": True, **settings}
        words |= {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 1}
        words |= {"fused_kernels": False}  # as on a GPU, where they have to be asked for
        run = load([f"{key}={json.dumps(value) if isinstance(value, bool) else value}" for key, value in words.items()], "train")
        rows: Any = OneRow(length)
        return forecast(run, build_objective(run.objective), rows, kind, device=torch.device("cpu"), world=1).memory


def parts_of(memory: Memory) -> tuple[int, int, int, int, int]:
    """Weights; adapter, gradients and optimizer; activations; logits; and in the host's memory."""
    beside = memory.adapters + memory.gradients + memory.optimizer
    return memory.weights, beside, memory.activations, memory.logits, memory.host


def main(folder: Path, words: list[str]) -> None:
    """A line a job and kind: GiB by part, and the goal where there is one."""
    heads = "job, tokens, activations, GiB, of which weights, of what learns, activations, logits, host, goal".split(", ")
    print(f"| {' | '.join(heads)} |")
    print("|" + "---|" * len(heads))
    jobs = [(*job, kind, 0.0) for job in JOBS for kind in KINDS] + GOALS
    for title, name, length, settings, kind, goal in jobs:
        if not all(word in title for word in words):
            continue
        parts = parts_of(plan(folder, name, length, settings, kind))
        total = sum(parts[:-1])
        cells = " | ".join(f"{size / 2**30:.2f}" for size in (total, *parts))
        told = f"{goal} {'reached' if total <= goal * 2**30 else 'missed'}" if goal else ""
        print(f"| {title} | {length:,} | {kind} | {cells} | {told} |", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
