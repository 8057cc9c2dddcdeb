"""The plan's time of a step beside the processor's, on a CPU: `python bench/plan_time.py [word ...]`, no word for all cases.

Knows no formula: each case is a run of six steps in this process, whose plan is drawn up just before. All rows are alike, so
every step is a mean one. What is measured is the time that the processor works for this process, the median of the steps but
the first two, in one thread. Others who use the machine slow that too, as they share its caches: so the plan is told once by the
best of the tries that its speeds come from, as users are, and once by their median, which is as disturbed as the steps are.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from plan_tensors import KINDS, METHODS, TYPES, make_inputs, timed

from hone.config import load
from hone.training import prepare, session
from hone.training.planning import forecast, speed

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


def measure(folder: Path, case: tuple[str, str, str, str, int]) -> tuple[float, float, float]:
    """Seconds of a step by the plan, by a plan of the machine as busy as it is, and as measured."""
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
        busy = plan_of(statistics.median)
        made = plan_of(min)
        with timed(settings["max_steps"]) as seconds:
            session.carry_out(made)
    return made.plan.step_seconds, busy.plan.step_seconds, statistics.median(seconds[2:])


def plan_of(choose: Callable[[list[float]], float]) -> session.Session:
    """A run that is prepared, its plan by the try that `choose` takes."""
    speed.choose = choose
    speed.speed_of.cache_clear()
    forecast._passes.clear()
    made = prepare.prepare(load(["run.json"], "train"), settings="")
    assert not isinstance(made, str), made
    return made


def main(words: list[str]) -> None:
    """One line a case, and the span of their ratios."""
    torch.set_num_threads(1)
    print(f"{'case':<40}{'plan, s':>9}{'measured':>10}{'ratio':>7}{'busy plan':>11}{'ratio':>7}")
    found, disturbed = [], []
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        make_inputs(Path(name))
        for title, case in CASES.items():
            if not all(word in title.replace(",", "").split() for word in words):
                continue
            said, busy, seconds = measure(Path(name), case)
            found.append(said / seconds)
            disturbed.append(busy / seconds)
            print(f"{title:<40}{said:>9.3f}{seconds:>10.3f}{found[-1]:>7.2f}{busy:>11.3f}{disturbed[-1]:>7.2f}", flush=True)
    for how, ratios in (("best", found), ("median", disturbed)):
        print(f"{len(ratios)} cases, speeds of the {how} try: {min(ratios):.2f} to {max(ratios):.2f}, median "
              f"{statistics.median(ratios):.2f}")  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
