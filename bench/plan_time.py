"""The plan's time of a step beside the processor's, on a CPU: `python bench/plan_time.py [word ...]`, no word for all cases.

Knows no formula: each case is a run of six steps in this process, whose plan is drawn up just before. All rows are alike, so
every step is a mean one. What is measured is the time that the processor works for this process, the median of the steps but
the first two, in one thread: what a step takes by the clock where nothing else runs.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from plan_tensors import KINDS, METHODS, TYPES, make_inputs, timed

from hone.config import load
from hone.training import prepare, session

CASES: dict[str, tuple[str, str, str, str, int]] = {  # model, method, what is kept, type, sequences of about 230 tokens
    "small llama, lora, fp32": ("llama-small", "lora", "kept", "fp32", 2),
    "small llama, lora, bf16": ("llama-small", "lora", "kept", "bf16", 2),
    "small mixtral, lora, bf16": ("mixtral-small", "lora", "kept", "bf16", 4),
    "large llama, lora, fp32": ("llama-large", "lora", "kept", "fp32", 2),
    "large llama, lora, bf16": ("llama-large", "lora", "kept", "bf16", 2),
    "large llama, lora, bf16, recomputed": ("llama-large", "lora", "full", "bf16", 2),
    "large qwen3, freeze, bf16": ("qwen3-large", "freeze", "kept", "bf16", 2),
    "large llama, full, fp32": ("llama-large", "full", "kept", "fp32", 2),
    "large llama, full, bf16, recomputed": ("llama-large", "full", "full", "bf16", 2),
}


def measure(folder: Path, case: tuple[str, str, str, str, int]) -> tuple[float, float]:
    """Seconds of a step by the plan and as measured."""
    model, method, kind, dtype, micro = case
    settings: dict[str, Any] = {
        "model_name_or_path": model, "template": "chatml", "stage": "sft", "do_train": True, "dataset": "rows",
        "dataset_dir": ".", "tokenized_path": "cache", "cutoff_len": 1024, "output_dir": "out", "overwrite_output_dir": True,
        "max_steps": 6, "per_device_train_batch_size": micro, "gradient_accumulation_steps": 1, "save_strategy": "no",
        "report_to": "none", "use_cpu": True, "disable_tqdm": True, "learning_rate": 1e-9,
        **METHODS[method], **KINDS[kind], **TYPES[dtype],
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(settings))
    with contextlib.redirect_stderr(io.StringIO()):
        made = prepare.prepare(load(["run.json"], "train"), settings="")
        assert not isinstance(made, str), made
        with timed(settings["max_steps"]) as seconds:
            session.carry_out(made)
    return made.plan.step_seconds, statistics.median(seconds[2:])


def main(words: list[str]) -> None:
    """One line a case, and the span of their ratios."""
    torch.set_num_threads(1)
    print(f"{'case':<40}{'plan, s':>9}{'measured':>10}{'ratio':>7}")
    found = []
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        make_inputs(Path(name))
        for title, case in CASES.items():
            if not all(word in title.replace(",", "").split() for word in words):
                continue
            said, seconds = measure(Path(name), case)
            found.append(said / seconds)
            print(f"{title:<40}{said:>9.3f}{seconds:>10.3f}{found[-1]:>7.2f}", flush=True)
    print(f"{len(found)} cases; plan / measured {min(found):.2f} to {max(found):.2f}, median {statistics.median(found):.2f}")


if __name__ == "__main__":
    main(sys.argv[1:])
