"""Memory that really runs out on a GPU: a run with all of it and with less than its micro-batch takes. Not yet run on a device.

    python bench/gpu/faults.py

`--toy` does both on a CPU with a small model, whose memory does not run out: it shows that the script runs.

Prints both runs' losses and their largest difference, and what the second said of its portions. One GPU is enough.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tempfile
from pathlib import Path

import torch
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from faults import make_inputs

from hone.commands import train

TOY = "--toy" in sys.argv
STEPS = 2 if TOY else 6


def run(inputs: Path, name: str) -> tuple[list[float], str]:
    """Losses of a run, and what it said."""
    folder = inputs / name
    settings = {
        "model_name_or_path": str(inputs / "model"), "stage": "sft", "do_train": True, "finetuning_type": "full",
        "dataset": "rows", "dataset_dir": str(inputs), "tokenized_path": str(inputs / "cache"), "cutoff_len": 64,
        "output_dir": str(folder), "per_device_train_batch_size": 64, "gradient_accumulation_steps": 1, "max_steps": STEPS,
        "learning_rate": 0.001, "logging_steps": 1, "save_strategy": "no", "report_to": "none", "disable_tqdm": True,
        "use_cpu": TOY,
    }  # fmt: skip
    (inputs / f"{name}.yaml").write_text(yaml.safe_dump(settings))
    with contextlib.redirect_stderr(io.StringIO()) as said:
        code = train.main([str(inputs / f"{name}.yaml")])
    assert code == 0, said.getvalue()
    records = map(json.loads, (folder / "trainer_log.jsonl").read_text().splitlines())
    return [record["loss"] for record in records if "loss" in record], said.getvalue()


def main() -> int:
    """Both runs, the second within three quarters of what the first took."""
    if not TOY and not torch.cuda.is_available():
        print("needs a CUDA device; --toy shows on a CPU that it runs")
        return 2
    with tempfile.TemporaryDirectory() as name:
        inputs = Path(name)
        make_inputs(inputs, width=32 if TOY else 2048, rows=128 if TOY else 512)
        whole, _ = run(inputs, "whole")
        if not TOY:
            leave_three_quarters()
        less, said = run(inputs, "less")
        print(
            "whole",
            whole,
            "\nless ",
            less,
            f"\nlargest difference {max(abs(a - b) for a, b in zip(whole, less, strict=True)):.3g}",
        )
        told = [line for line in said.splitlines() if "out of memory" in line]
        print("\n".join(told) or "memory did not run out: the trial shows nothing")
        return int(not told and not TOY)


def leave_three_quarters() -> None:
    """Let this process have three quarters of what it took at its highest."""
    peak = torch.cuda.max_memory_reserved()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.75 * peak / torch.cuda.get_device_properties(0).total_memory)
    print(torch.cuda.get_device_name(), f"peak {peak / 2**30:.2f} GiB, then three quarters of it")


if __name__ == "__main__":
    sys.exit(main())
