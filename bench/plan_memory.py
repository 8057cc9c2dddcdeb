"""The plan's memory beside the peak resident size, on a CPU: `python bench/plan_memory.py [name ...]`, no name for all cases.

Knows no formula: each case is `hone train` in a child process, whose plan.json and largest resident size are compared.
Models are random; their tokenizer is made on the spot, whatever the size of the vocabulary. What tensors alone take is compared
by bench/plan_tensors.py.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = "the rain falls on roof and sings to me while seven grey cats sleep under an old wooden table near Paris".split()
LORA = {"finetuning_type": "lora", "lora_target": "all", "lora_rank": 32}
OFT = {"finetuning_type": "oft", "oft_target": "all", "oft_block_size": 32}
FULL = {"finetuning_type": "full"}
KEEP, AGAIN = {"gradient_checkpointing": False}, {"gradient_checkpointing": True}
CASES: dict[str, dict[str, Any]] = {
    "lora, short rows": {**LORA, **KEEP, "dataset": "short"},
    "lora, long rows": {**LORA, **KEEP, "dataset": "long"},
    "lora, long rows, recomputed": {**LORA, **AGAIN, "dataset": "long"},
    "lora, vocabulary of 128k": {**LORA, **KEEP, "dataset": "short", "model_name_or_path": "wide"},
    "lora, vocabulary, bf16": {**LORA, **KEEP, "dataset": "short", "model_name_or_path": "wide", "bf16": True},
    "lora, bf16": {**LORA, **KEEP, "dataset": "short", "bf16": True},
    "qlora nf4, bf16": {**LORA, **KEEP, "dataset": "short", "bf16": True, "quantization_bit": 4},
    "oft, long rows": {**OFT, **KEEP, "dataset": "long"},
    "oft, bf16": {**OFT, **KEEP, "dataset": "short", "bf16": True},
    "full, short rows": {**FULL, **KEEP, "dataset": "short"},
    "full, long rows, recomputed": {**FULL, **AGAIN, "dataset": "long"},
    "full, vocabulary of 128k": {**FULL, **KEEP, "dataset": "short", "model_name_or_path": "wide"},
}


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes and a few words."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator([" ".join(WORDS)] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|im_end|>")


def make_inputs(folder: Path) -> None:
    """Two models of 25 and 36 M weights, and rows of about 80 and 500 tokens."""
    sizes = {"small": (4000, 512, 1408, 8), "wide": (128_256, 256, 704, 4)}
    for name, (vocabulary, hidden, wide, layers) in sizes.items():
        config = LlamaConfig(
            vocab_size=vocabulary, hidden_size=hidden, intermediate_size=wide, num_hidden_layers=layers,
            num_attention_heads=hidden // 64, num_key_value_heads=hidden // 128, tie_word_embeddings=name == "wide",
        )  # fmt: skip
        LlamaForCausalLM(config).save_pretrained(folder / name)
        make_tokenizer().save_pretrained(folder / name)
    rng = random.Random(0)
    for name, length in (("short", 60), ("long", 450)):
        rows = [{"instruction": f"Say {number}", "output": " ".join(rng.choices(WORDS, k=length))} for number in range(12)]
        (folder / f"{name}.json").write_text(json.dumps(rows))
    columns = {"prompt": "instruction", "response": "output"}
    catalog = {name: {"file_name": f"{name}.json", "columns": columns} for name in ("short", "long")}
    (folder / "dataset_info.json").write_text(json.dumps(catalog))


def measure(folder: Path, case: dict[str, Any]) -> tuple[dict[str, int], int]:
    """The plan's parts and the child's largest resident size, in bytes, over three steps."""
    settings = {
        "model_name_or_path": "small", "template": "chatml", "stage": "sft", "do_train": True, "dataset_dir": ".",
        "tokenized_path": "cache", "cutoff_len": 4096, "output_dir": "out", "overwrite_output_dir": True,
        "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "max_steps": 3, "save_strategy": "no",
        "report_to": "none", "use_cpu": True, "disable_tqdm": True,
    } | case  # fmt: skip
    (folder / "run.json").write_text(json.dumps(settings))
    with (folder / "log.txt").open("w") as file:
        child = subprocess.Popen([sys.executable, "-m", "hone", "train", "run.json"], cwd=folder, stdout=file, stderr=file)
        _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit((folder / "log.txt").read_text()[-1000:])
    return json.loads((folder / "out" / "plan.json").read_text())["memory"], usage.ru_maxrss * 1024


def main(names: list[str]) -> None:
    """One line a case: MiB measured, MiB by the plan, their ratio, also without what the libraries hold, and the parts."""
    print(f"{'case':<30}{'measured':>9}{'plan':>7}{'ratio':>7}{'net':>7}  parts (MiB)")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_inputs(folder)
        for case in names or CASES:
            parts, peak = measure(folder, CASES[case])
            total, held = sum(parts.values()), parts["libraries"]
            ratio, net = peak / total, (peak - held) / (total - held)
            said = " ".join(f"{part} {size >> 20}" for part, size in parts.items())
            print(f"{case:<30}{peak >> 20:>9}{total >> 20:>7}{ratio:>7.2f}{net:>7.2f}  {said}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
