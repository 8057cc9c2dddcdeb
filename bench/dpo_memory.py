"""Peak memory of DPO on a CPU beside TRL and LLaMA-Factory: `python bench/dpo_memory.py TOKENIZER_DIR --trl-python PYTHON`.

Knows no formula: each run is a process of its own through its program's own entry (dpo_side.py watches it), on the same random
Llama with the vocabulary of TOKENIZER_DIR and the same pairs. Stops where two programs were not given the same token ids.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

WORDS = "the rain falls on roof and sings to me while seven grey cats sleep under an old wooden table near Paris".split()
RANK = 8
UNEVEN = [(30, 150, 250), (60, 320, 120)]
EVEN = [(45, 210, 210)] * 2
"""Words of the question, the chosen and the rejected answer of each pair of a step."""
ASKED = "<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
"""How `template: llama3` asks; TRL is given it as text, and its tokenizer puts <|begin_of_text|> before it."""
COLUMNS = [
    "case", "program", "forward (tokens)", "libraries", "loaded", "peak", "peak - libraries", "peak - loaded",
    "(peak - libraries) / hone's", "(peak - loaded) / hone's",
]  # fmt: skip
Told = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A row of the table. precompute: the reference is asked once, before training; peers: who has such a thing."""

    full: bool
    lengths: list[tuple[int, int, int]]
    precompute: bool = False
    peers: tuple[str, ...] = ("trl", "llamafactory")


CASES = {
    "LoRA, uneven lengths": Case(False, UNEVEN),
    "full, frozen copy": Case(True, UNEVEN),
    "full, reference computed before": Case(True, UNEVEN, True, ("trl",)),
    "LoRA, even lengths": Case(False, EVEN),
}


def make_model(folder: Path, tokenizer_dir: str) -> tuple[int, int]:
    """FOLDER/model, fp32, with the tokenizer; its vocabulary's size and the id of padding."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=352, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, eos_token_id=tokenizer.eos_token_id, bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    for path in (folder / "model").glob("tokenizer*.json"):  # without this token hone's llama3 is Llama 3.0's: no lines of dates
        path.write_text(path.read_text().replace("<|eom_id|>", "<|reserved|>"))
    return len(tokenizer), tokenizer.pad_token_id


def make_rows(lengths: list[tuple[int, int, int]]) -> list[dict[str, str]]:
    """One pair for each of `lengths`."""
    rng = random.Random(0)
    texts = ((" ".join(rng.choices(WORDS, k=length)) for length in three) for three in lengths)
    return [dict(zip(("instruction", "chosen", "rejected"), three, strict=True)) for three in texts]


def settings_for(program: str, case: Case, num_pairs: int) -> Told:
    """The run in the program's own words: a step takes all pairs, three steps, nothing is recomputed, AdamW, fp32."""
    shared: Told = {
        "output_dir": f"out-{program}", "per_device_train_batch_size": num_pairs, "gradient_accumulation_steps": 1,
        "max_steps": 3, "learning_rate": 1e-4, "save_strategy": "no", "report_to": "none", "use_cpu": True, "bf16": False,
        "disable_tqdm": True, "logging_steps": 1,
    }  # fmt: skip
    rows = make_rows(case.lengths)
    if program == "trl":
        pairs = [{**row, "prompt": ASKED.format(row.pop("instruction"))} for row in rows]
        more = {"gradient_checkpointing": False, "beta": 0.1, "precompute_ref_log_probs": case.precompute}
        return {"model": "model", "rows": pairs, "lora_rank": 0 if case.full else RANK, "settings": shared | more}
    Path("pairs.json").write_text(json.dumps([{**row, "input": ""} for row in rows]))
    columns = {"prompt": "instruction", "query": "input", "chosen": "chosen", "rejected": "rejected"}
    Path("dataset_info.json").write_text(json.dumps({"pairs": {"file_name": "pairs.json", "ranking": True, "columns": columns}}))
    adapter: Told = {"finetuning_type": "full"}
    if not case.full:
        adapter = {"finetuning_type": "lora", "lora_target": "all", "lora_rank": RANK, "lora_alpha": 2 * RANK}
    own: Told = {"disable_gradient_checkpointing": True}
    if program == "hone":
        own = {"gradient_checkpointing": False, "tokenized_path": "cache", "precompute_ref": case.precompute}
    return {
        **shared, **adapter, **own, "model_name_or_path": "model", "template": "llama3", "stage": "dpo", "do_train": True,
        "pref_beta": 0.1, "dataset": "pairs", "dataset_dir": ".", "cutoff_len": 2048,
    }  # fmt: skip


def measure(program: str, python: str, case: Case, vocabulary: int, pad_id: int) -> Told:
    """The notes that dpo_side.py leaves of one run, in an empty folder beside the model."""
    with tempfile.TemporaryDirectory(dir=".") as name:
        home = Path.cwd()
        os.chdir(name)
        Path("model").symlink_to(home / "model")
        Path("run.yaml").write_text(json.dumps(settings_for(program, case, len(case.lengths))))
        words = [python, Path(__file__).resolve().with_name("dpo_side.py"), "notes.json", program, "run.yaml", vocabulary, pad_id]
        done = subprocess.run(list(map(str, words)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        os.chdir(home)
        if done.returncode:
            raise SystemExit(f"{program}: {done.stdout[-3000:]}")
        return json.loads((Path(name) / "notes.json").read_text())


def line(case: str, program: str, notes: Told, mine: Told) -> str:
    """A row of the table; the last two numbers are the program's differences over hone's."""
    shape, tokens = notes["batches"][0]["shape"], notes["batches"][0]["tokens"]
    over, hones = ([told["peak"] - told[name] for name in ("libraries", "loaded")] for told in (notes, mine))
    sizes = (f"{size >> 20:,}" for size in (notes["libraries"], notes["loaded"], notes["peak"], *over))
    ratios = (f"{one / other:.2f}" for one, other in zip(over, hones, strict=True))
    return "| " + " | ".join([case, program, f"{shape[0]} x {shape[1]} ({tokens:,})", *sizes, *ratios]) + " |"


def main() -> None:
    """Print a line a run, in MiB, then the versions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tokenizer", help="a folder with the tokenizer of Llama 3.1")
    parser.add_argument("--trl-python", help="the python of an environment with trl and peft")
    parser.add_argument("--llamafactory-python", help="the python of an environment with llamafactory")
    parser.add_argument("names", nargs="*", help="cases, all where none is named")
    asked = parser.parse_intermixed_args()
    pythons = {"hone": sys.executable, "trl": asked.trl_python, "llamafactory": asked.llamafactory_python}
    tokenizer, versions = str(Path(asked.tokenizer).resolve()), {}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        vocabulary, pad_id = make_model(Path(folder), tokenizer)
        print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
        for name in asked.names or CASES:
            found: dict[str, Told] = {}
            for program in ("hone", *(peer for peer in CASES[name].peers if pythons[peer])):
                found[program] = measure(program, str(pythons[program]), CASES[name], vocabulary, pad_id)
                versions[program] = found[program]["versions"]
                print(line(name, program, found[program], found["hone"]), flush=True)
            digests = {program: {one["digest"] for one in notes["batches"]} for program, notes in found.items()}
            if len(set.union(*digests.values())) != 1:
                raise SystemExit(f"not the same token ids: {digests}")
        os.chdir("/")
    print(*(f"{program}: {known}" for program, known in versions.items()), sep="\n")


if __name__ == "__main__":
    main()
