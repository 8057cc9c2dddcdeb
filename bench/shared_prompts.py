"""What it saves to compute the prompt of a pair once: `python bench/shared_prompts.py DATA_DIR TOKENIZER_DIR [LAYERS [WIDTH]]`.

Knows no formula: a DPO step with LoRA, its reference included, on the same pairs laid out with their prompt once and twice, in
turn, in one process on a CPU. Stops where the losses differ.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from plan_memory import LORA
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from hone.adapters.apply import attach, without_adapter
from hone.config import load
from hone.data.build import TokenSet
from hone.models.policy import Policy
from hone.models.reference import Reference
from hone.objectives.base import Objective
from hone.training.feed import lay_out
from hone.training.planning.draft import gather_material

PAIRS, STEPS = 2, 7
NEAR = 1e-4


def make_run(folder: Path, data: str, tokenizer_dir: str, layers: int, width: int) -> Any:
    """The settings of a run on real pairs, and a random Llama for it in `folder`."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=width * 11 // 4, num_hidden_layers=layers,
        num_attention_heads=width // 32, num_key_value_heads=width // 64, max_position_embeddings=4096,
        eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    settings = {
        **LORA, "model_name_or_path": str(folder / "model"), "template": "llama3", "stage": "dpo", "dataset": "dpo_en_demo",
        "dataset_dir": data, "tokenized_path": str(folder / "cache"), "output_dir": str(folder / "out"), "cutoff_len": 1024,
        "max_samples": 100, "use_cpu": True, "do_train": True,
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(settings))
    return load([str(folder / "run.json")], "train")


def resident(name: str) -> int:
    """VmRSS (now) or VmHWM (most since it was reset), in MiB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) >> 10


def step(objective: Objective, policy: Policy, tokens: TokenSet, rows: list[int], packing: Any) -> tuple[float, float, int, int]:
    """Loss, seconds, MiB that the step adds at its peak, and tokens of its row."""
    batch = lay_out(tokens, rows, packing=packing, pad_id=0)
    policy.module.zero_grad()
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew
    held, started = resident("VmRSS"), time.perf_counter()
    loss = objective.loss(policy, batch).total
    loss.backward()
    return loss.item(), time.perf_counter() - started, resident("VmHWM") - held, batch.ids_BT.numel()


def main(data: str, tokenizer_dir: str, layers: int = 16, width: int = 256) -> None:
    """STEPS in each layout, after one that is not counted."""
    with tempfile.TemporaryDirectory() as name:
        run = make_run(Path(name), data, tokenizer_dir, layers, width)
        material = gather_material(run)
        base = LlamaForCausalLM.from_pretrained(run.model.model_name_or_path, dtype=torch.float32)
        module = attach(base, run.adapter, base_name="random").train()
        policy = Policy(module)
        policy.reference = Reference(policy, lambda: without_adapter(module))
        found: dict[str, list[tuple[float, float, int, int]]] = {"packed": [], "shared": []}
        for number in range(STEPS + 1):  # the first is not counted
            rows = list(range(PAIRS * number, PAIRS * (number + 1)))
            for packing, told in found.items():
                told.append(step(material.objective, policy, material.tokens, rows, packing))
            if abs(found["packed"][-1][0] - found["shared"][-1][0]) > NEAR:
                raise SystemExit(f"losses differ: {found['packed'][-1][0]}, {found['shared'][-1][0]}")
    tell(found)


def tell(found: dict[str, list[tuple[float, float, int, int]]]) -> None:
    """Medians over the steps but the first, and the medians of each step's ratios."""
    packed, shared = (torch.tensor(found[packing][1:], dtype=torch.float64) for packing in ("packed", "shared"))
    print(f"{'layout':<10}{'seconds':>9}{'MiB':>9}{'tokens':>9}")
    for name, numbers in (("packed", packed), ("shared", shared), ("ratio", shared / packed)):
        print(f"{name:<10}" + "".join(f"{median:>9.2f}" for median in numbers.quantile(0.5, dim=0)[1:].tolist()))


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(int, sys.argv[3:5]))
