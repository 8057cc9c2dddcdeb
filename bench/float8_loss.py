"""What a base in few bits costs in loss: the same LoRA run on it in other forms, side by side: `python bench/float8_loss.py`.

Knows no formula: the small Llama of real_answers.py first learns to answer; then LoRA r8 on all linear layers learns tool calls
(LLaMA-Factory's glaive_toolcall_en_demo) on it, by `hone train`, with the base in float32, bfloat16, float8, float8 with products
in 8 bits as on a Hopper (by torch's own on the CPU), and in bitsandbytes' 8 and 4 bits. Prints the mean loss of each ten steps,
and the largest distance to float32's in a step.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml
from real_answers import COMMON, SHARED, make_base

from hone.commands import train
from hone.kernels import float8
from hone.kernels.machine import ADA

FP8 = {"quantization_bit": 8, "quantization_method": "fp8", "bf16": True}
WAYS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16": {"bf16": True},
    "float8": FP8,
    "float8, products in 8 bits": FP8,
    "bitsandbytes, 8 bits": {"quantization_bit": 8, "bf16": True},
    "bitsandbytes, NF4": {"quantization_bit": 4, "bf16": True},
}
EACH = 10


def losses(folder: Path, base: str, way: str, steps: int) -> list[float]:
    """The loss of each step."""
    name = way.replace(" ", "-").replace(",", "")
    asked = {
        **COMMON, **WAYS[way], "model_name_or_path": base, "stage": "sft", "finetuning_type": "lora", "lora_target": "all",
        "lora_rank": 8, "dataset": "glaive_toolcall_en_demo", "dataset_dir": str(SHARED / "llamafactory"), "cutoff_len": 256,
        "learning_rate": 5e-3, "max_steps": steps, "logging_steps": 1, "output_dir": str(folder / name),
    }  # fmt: skip
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(asked))
    with patch.object(float8, "capability_of", lambda device: ADA if "products" in way else (0, 0)):
        if train.main([str(file)]):
            sys.exit(f"{way}: the run failed")
    told = (json.loads(line) for line in (folder / name / "trainer_log.jsonl").read_text().splitlines())
    return [line["loss"] for line in told if "loss" in line]


def main() -> None:
    """A line a way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("float8_loss"))
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--base-epochs", type=float, default=1)
    parser.add_argument("--base", help="a model that can answer, in the place of the small one")
    said = parser.parse_args()
    base = said.base or make_base(said.out, SHARED, said.base_epochs)
    said.out.mkdir(exist_ok=True)
    heads = [f"{first + 1} to {first + EACH}" for first in range(0, said.steps, EACH)]
    print(f"| base | {' | '.join(heads)} | furthest from float32 |\n|{'---|' * (len(heads) + 2)}")
    exact: list[float] = []
    for way in WAYS:
        found = losses(said.out, base, way, said.steps)
        exact = exact or found
        means = [sum(found[first : first + EACH]) / EACH for first in range(0, said.steps, EACH)]
        apart = max(abs(one - other) / other for one, other in zip(found, exact, strict=True))
        print(f"| {way} | {' | '.join(f'{mean:.4f}' for mean in means)} | {apart:.2%} |", flush=True)


if __name__ == "__main__":
    main()
