"""What real preferences teach a small model of rows it never saw: `python bench/real_answers.py [--data DIR] [stage ...]`.

Knows no formula: a small Llama first learns to answer (LLaMA-Factory's alpaca_en_demo), then each stage learns from all folds of
a set but one and is judged on that one before and after, by `hone train`. Prints the figures of all held-back rows together.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, PreTrainedTokenizerFast

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
SPECIAL = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
VOCABULARY, LONGEST = 2048, 192
PAIRS = {"ranking": True, "formatting": "sharegpt"}
PAIRS["columns"] = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"}
STACK = {"ranking": True, "columns": {"prompt": "question", "chosen": "response_j", "rejected": "response_k"}}
RATED = {
    "formatting": "sharegpt", "columns": {"messages": "messages", "kto_tag": "label"},
    "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
}  # fmt: skip
SETS: dict[str, tuple[str, dict[str, Any]]] = {
    "dpo_en_demo": ("llamafactory/dpo_en_demo.json", PAIRS),
    "kto_en_demo": ("llamafactory/kto_en_demo.json", RATED),
    "stack": ("preference/torchtune_stack_exchange_paired_tiny.json", STACK),
}
TRIED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "dpo": ("dpo", "dpo_en_demo", {"learning_rate": 3e-4}),
    "rm": ("rm", "dpo_en_demo", {"learning_rate": 1e-3}),
    "kto": ("kto", "kto_en_demo", {"learning_rate": 3e-4}),
    "rm stack": ("rm", "stack", {"learning_rate": 1e-3}),
}
"""Name: stage, set, and what it wants."""
FIGURES = {"rm": ("accuracy", "margin"), "dpo": ("rewards/accuracies", "rewards/margins"), "kto": ("rewards/margins",)}
COMMON = {
    "template": "llama3", "finetuning_type": "full", "cutoff_len": LONGEST, "per_device_train_batch_size": 8,
    "lr_scheduler_type": "cosine", "warmup_ratio": 0.1, "use_cpu": True, "save_strategy": "no", "overwrite_output_dir": True,
    "disable_tqdm": True, "report_to": "none", "seed": 1,
}  # fmt: skip


def make_base(folder: Path, data: Path, epochs: float) -> str:
    """A Llama of 0.6 M weights that has learned alpaca_en_demo; its folder."""
    rows = json.loads((data / "llamafactory" / "alpaca_en_demo.json").read_text(encoding="utf-8"))
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator([text for row in rows for text in row.values()] + ["system", "user", "assistant"] * 9, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=SPECIAL[0], eos_token=SPECIAL[4], pad_token=SPECIAL[1]
    )
    config = LlamaConfig(
        architectures=["LlamaForCausalLM"], vocab_size=len(tokenizer), hidden_size=128, intermediate_size=352,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1024, tie_word_embeddings=True,
        bos_token_id=0, eos_token_id=4, pad_token_id=1,
    )  # fmt: skip
    for part in (tokenizer, config):
        part.save_pretrained(folder / "random")
    asked = {
        "model_name_or_path": str(folder / "random"), "train_from_scratch": True, "stage": "sft", "dataset": "alpaca_en_demo",
        "dataset_dir": str(data / "llamafactory"), "num_train_epochs": epochs, "learning_rate": 1.5e-3, "logging_steps": 50,
    }  # fmt: skip
    told = train(asked, folder / "base")
    print(f"base: loss {told[0]['loss']:.2f} -> {[line for line in told if 'loss' in line][-1]['loss']:.2f}", flush=True)
    return str(folder / "base")


def train(asked: dict[str, Any], output: Path) -> list[dict[str, float]]:
    """`hone train` of the settings, in a process of its own; the lines of its log."""
    output.parent.mkdir(parents=True, exist_ok=True)
    file = output.with_suffix(".yaml")
    file.write_text(yaml.safe_dump({**COMMON, **asked, "output_dir": str(output)}))
    done = subprocess.run(
        [sys.executable, "-m", "hone", "train", str(file)], capture_output=True, text=True, check=False,
        env={"OMP_NUM_THREADS": "1", **os.environ},
    )  # fmt: skip
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    return [json.loads(line) for line in (output / "trainer_log.jsonl").read_text().splitlines()]


def fold_of(folder: Path, data: Path, name: str, held: int, num_folds: int) -> int:
    """Write the set's rows but those of fold `held` as "learned" and these as "held", with their entries; how many are held."""
    file, entry = SETS[name]
    rows = json.loads((data / file).read_text(encoding="utf-8"))
    random.Random(0).shuffle(rows)
    parts = {"learned": [row for at, row in enumerate(rows) if at % num_folds != held], "held": rows[held::num_folds]}
    folder.mkdir(parents=True, exist_ok=True)
    for part, of_part in parts.items():
        (folder / f"{part}.json").write_text(json.dumps(of_part))
    (folder / "dataset_info.json").write_text(json.dumps({part: {"file_name": f"{part}.json", **entry} for part in parts}))
    return len(parts["held"])


def judge(folder: Path, data: Path, base: str, name: str, options: argparse.Namespace) -> None:
    """Every fold held back once; prints before and after, weighted by the rows of a fold."""
    stage, set_name, more = TRIED[name]
    found, rows = {}, 0
    for held in range(options.folds):
        place = folder / name.replace(" ", "-") / str(held)
        num = fold_of(place / "data", data, set_name, held, options.folds)
        asked = {
            "model_name_or_path": base, "stage": stage, "dataset": "learned", "eval_dataset": "held", "eval_on_start": True,
            "dataset_dir": str(place / "data"), "num_train_epochs": options.epochs, "eval_strategy": "epoch", "logging_steps": 4,
            **more,
        }  # fmt: skip
        told = train(asked, place / "out")
        rows += num
        for figure in ("loss", *FIGURES[stage]):
            judged = [line[f"eval_{figure}"] for line in told if f"eval_{figure}" in line]
            learned = [line[figure] for line in told if figure in line]
            for when, value in zip(
                ("before", "after", "first", "last"), (judged[0], judged[-1], learned[0], learned[-1]), strict=True
            ):
                found.setdefault(figure, {}).setdefault(when, 0.0)
                found[figure][when] += num * value
    for figure, sums in found.items():
        before, after, first, last = (value / rows for value in sums.values())
        print(
            f"{name:<9} {figure:<19} held back ({rows} rows): {before:.3f} -> {after:.3f}   learned: {first:.3f} -> {last:.3f}",
            flush=True,
        )


def main() -> None:
    """All stages that are named, or every one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stages", nargs="*", help=f"of {', '.join(TRIED)}; all where none is named")
    parser.add_argument("--data", type=Path, default=SHARED)
    parser.add_argument("--out", type=Path, default=Path("real_answers"))
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--base-epochs", type=float, default=3)
    parser.add_argument("--base", help="a model that can answer, in the place of the small one")
    options = parser.parse_args()
    base = options.base or make_base(options.out, options.data, options.base_epochs)
    for name in options.stages or TRIED:
        judge(options.out, options.data, base, name, options)


if __name__ == "__main__":
    main()
