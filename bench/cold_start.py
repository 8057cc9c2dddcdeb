"""What starting costs: `python bench/cold_start.py TOKENIZER_DIR [rounds]`, in CPU seconds and as ratios.

Knows no training. Bare is a process that imports torch and transformers and loads the same tokenizer and weights; a cached run
is `hone train` of one step whose data are in the token cache, up to the model that it writes. Runs alternate; medians.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

BARE = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
AutoTokenizer.from_pretrained(sys.argv[1])
AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
"""
MAKE = """
import sys, torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
config = LlamaConfig(
    vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, tie_word_embeddings=True,
)
LlamaForCausalLM(config).save_pretrained(sys.argv[2])
tokenizer.save_pretrained(sys.argv[2])
"""


def cpu_seconds(words: list[str], wanted: int = 0) -> float:
    """CPU seconds of a child python; it must end with exit code `wanted`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == wanted, done.stderr
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def write_inputs(folder: Path, tokenizer: str) -> None:
    """A random model of two layers, twenty rows, the settings of a run of one step, and settings with a misspelt key."""
    subprocess.run([sys.executable, "-c", MAKE, tokenizer, str(folder / "model")], check=True, capture_output=True)
    rows = [{"instruction": f"Add {n} and {n}.", "output": f"{2 * n}"} for n in range(20)]
    (folder / "rows.json").write_text(json.dumps(rows))
    (folder / "dataset_info.json").write_text(json.dumps({"rows": {"file_name": "rows.json"}}))
    settings = {
        "model_name_or_path": str(folder / "model"), "stage": "sft", "do_train": True, "finetuning_type": "lora",
        "template": "default", "dataset": "rows", "dataset_dir": str(folder), "tokenized_path": str(folder / "cache"),
        "output_dir": str(folder / "out"), "overwrite_output_dir": True, "max_steps": 1, "save_strategy": "no",
    }  # fmt: skip
    (folder / "run.yaml").write_text(json.dumps(settings))
    (folder / "bad.yaml").write_text(json.dumps({**settings, "learning_rat": 1}))


def main(tokenizer: str, rounds: int = 5) -> None:
    """The table."""
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        write_inputs(folder, tokenizer)
        hone = ["-m", "hone"]
        commands = {
            "bare: import torch, transformers; load": (["-c", BARE, str(folder / "model")], 0),
            "hone version": ([*hone, "version"], 0),
            "hone train --help": ([*hone, "train", "--help"], 0),
            "hone check, a misspelt key": ([*hone, "check", str(folder / "bad.yaml")], 2),
            "hone train, a cached run of one step": ([*hone, "train", str(folder / "run.yaml")], 0),
        }
        found: dict[str, list[float]] = {name: [] for name in commands}
        cpu_seconds(*commands["hone train, a cached run of one step"])  # fills the token cache
        for _ in range(rounds):
            for name, (words, code) in commands.items():
                found[name].append(cpu_seconds(words, code))
        bare = statistics.median(next(iter(found.values())))
        print("| | CPU seconds | over bare |\n|---|---|---|")
        for name, times in found.items():
            print(f"| {name} | {statistics.median(times):.2f} | {statistics.median(times) / bare:.2f} |")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
