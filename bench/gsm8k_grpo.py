"""What GRPO makes of GSM8K rows with the numeric reward: `python bench/gsm8k_grpo.py [--base MODEL] [--data DIR]`.

Knows no formula: a small model half learns the last numbers of eight published rows, and is then rewarded for those of four, of
which it is given question and worked answer as they are. No mathematics is learned; it shows the way from rows to rewards.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from real_answers import SHARED, make_base, train

ROWS = "gsm8k/train_rows_0-999.jsonl"
KEPT = {"cutoff_len": 256, "lr_scheduler_type": "constant", "warmup_ratio": 0, "learning_rate": 1e-3, "seed": 42}


def make_sets(folder: Path, data: Path) -> None:
    """FOLDER/data: "published", and "last", whose answers are `#### NUMBER` alone."""
    rows = [json.loads(line) for line in (data / ROWS).read_text(encoding="utf-8").splitlines()[:8]]
    last = [{**row, "answer": f"#### {row['answer'].rpartition('#### ')[2].strip()}"} for row in rows]
    (folder / "data").mkdir(parents=True, exist_ok=True)
    entries = {}
    for name, several in (("published", rows), ("last", last)):
        (folder / "data" / f"{name}.json").write_text(json.dumps(several))
        entries[name] = {"file_name": f"{name}.json", "columns": {"prompt": "question", "response": "answer"}}
    (folder / "data" / "dataset_info.json").write_text(json.dumps(entries))


def main() -> None:
    """Print the mean numeric reward of every five steps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=SHARED)
    parser.add_argument("--out", type=Path, default=Path("gsm8k_grpo"))
    parser.add_argument("--base", help="a model that can answer, in the place of the small one of real_answers.py")
    options = parser.parse_args()
    make_sets(options.out, options.data)
    base = options.base or make_base(options.out, options.data, 3)
    asked = {**KEPT, "dataset_dir": str(options.out / "data")}
    warm = {"stage": "sft", "model_name_or_path": base, "dataset": "last", "max_steps": 24, "logging_steps": 24}
    train({**asked, **warm}, options.out / "warm")
    drawn = {
        "stage": "grpo", "model_name_or_path": str(options.out / "warm"), "dataset": "published", "max_samples": 4,
        "reward_funcs": "numeric", "num_generations": 8, "max_new_tokens": 8, "per_device_train_batch_size": 32, "max_steps": 50,
        "logging_steps": 5,
    }  # fmt: skip
    told = [line["rewards/numeric/mean"] for line in train({**asked, **drawn}, options.out / "grpo") if "reward" in line]
    print("numeric reward, means of five steps:", " ".join(f"{one:.2f}" for one in told))


if __name__ == "__main__":
    main()
