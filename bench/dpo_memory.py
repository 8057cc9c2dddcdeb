"""Peak memory of DPO on a CPU beside TRL and LLaMA-Factory: `python bench/dpo_memory.py [--tokenizer DIR] [case ...]`.

Knows no formula: each run is a process of its own through its program's own entry (dpo_side.py watches it), on the same random
Llama with a real tokenizer and the same pairs. Stops where two programs were not given the same token ids or found another loss.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peers import ENVIRONMENTS, python_of
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

TOKENIZER = Path(__file__).resolve().parents[2] / "shared" / "data" / "tokenizers" / "llama-3.1"
WORDS = "the rain falls on roof and sings to me while seven grey cats sleep under an old wooden table near Paris".split()
RANK, RATES = 8, {False: 1e-3, True: 1e-4}
"""RATES: the learning rate where the whole model learns (True) and where LoRA does, so that the second step's loss is another."""
UNEVEN = [(30, 150, 250), (60, 320, 120)]
EVEN = [(45, 210, 210)] * 2
"""Words of the question, the chosen and the rejected answer of each pair of a step."""
NEAR = 1e-3
"""How far two programs' losses may be apart: a loss is 0.1 times a sum of some 800 fp32 log-probs of about -12."""
ASKED = "<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
"""How `template: llama3` asks; TRL is given it as text, and its tokenizer puts <|begin_of_text|> before it."""
COLUMNS = ["case", "program", "setting", "forward", "losses", "imported", "peak", "peak - imported", "over hone's"]
Told = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """Rows of the table. precompute: the reference is asked once, before training; more: settings that are tried here alone."""

    full: bool
    lengths: list[tuple[int, int, int]]
    precompute: bool = False
    more: bool = False


CASES = {
    "LoRA, uneven": Case(False, UNEVEN, more=True),
    "LoRA, even": Case(False, EVEN),
    "full, frozen copy, uneven": Case(True, UNEVEN),
    "full, frozen copy, even": Case(True, EVEN),
    "full, precomputed, uneven": Case(True, UNEVEN, True),
    "full, precomputed, even": Case(True, EVEN, True),
}
WAYS: dict[str, dict[str, Told]] = {"hone": {"stock": {}}, "trl": {"stock": {}}, "llamafactory": {"stock": {}}}
"""A program's settings by name, its stock first: the peers recompute activations, hone does where memory is scarce."""
MORE: dict[str, dict[str, Told]] = {
    "hone": {"recomputed": {"gradient_checkpointing": True}},
    "trl": {name: {name: True} for name in ("padding_free", "activation_offloading", "use_liger_kernel")},
    "llamafactory": {name: {name: True} for name in ("use_unsloth_gc", "enable_liger_kernel")},
}
"""What else is meant to save memory; tried in one case."""


def make_model(folder: Path, tokenizer_dir: Path) -> tuple[int, int]:
    """FOLDER/model, fp32, with the tokenizer; its vocabulary's size and the id of padding."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=352, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, eos_token_id=tokenizer.eos_token_id, bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
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


def settings_for(program: str, case: Case, way: Told) -> Told:
    """The run in the program's own words: a step takes all pairs, two steps, AdamW, fp32."""
    shared: Told = {
        "output_dir": f"out-{program}", "per_device_train_batch_size": len(case.lengths), "gradient_accumulation_steps": 1,
        "max_steps": 2, "learning_rate": RATES[case.full], "lr_scheduler_type": "constant", "save_strategy": "no",
        "report_to": "none", "use_cpu": True, "bf16": False, "disable_tqdm": True, "logging_steps": 1,
    }  # fmt: skip
    rows = make_rows(case.lengths)
    if program == "trl":
        pairs = [{**row, "prompt": ASKED.format(row.pop("instruction"))} for row in rows]
        told = shared | {"beta": 0.1, "precompute_ref_log_probs": case.precompute} | way
        return {"model": "model", "rows": pairs, "lora_rank": 0 if case.full else RANK, "settings": told}
    Path("pairs.json").write_text(json.dumps([{**row, "input": ""} for row in rows]))
    columns = {"prompt": "instruction", "query": "input", "chosen": "chosen", "rejected": "rejected"}
    Path("dataset_info.json").write_text(json.dumps({"pairs": {"file_name": "pairs.json", "ranking": True, "columns": columns}}))
    more: Told = {"finetuning_type": "full"}
    if not case.full:
        more = {"finetuning_type": "lora", "lora_target": "all", "lora_rank": RANK, "lora_alpha": 2 * RANK}
    if program == "hone":
        more["tokenized_path"] = "cache"
    if case.precompute:
        more["precompute_ref" if program == "hone" else "precompute_ref_log_probs"] = True  # LLaMA-Factory has neither
    return {
        **shared, **more, **way, "model_name_or_path": "model", "template": "llama3", "stage": "dpo", "do_train": True,
        "pref_beta": 0.1, "dataset": "pairs", "dataset_dir": ".", "cutoff_len": 2048,
    }  # fmt: skip


def measure(program: str, python: Path, settings: tuple[Case, Told], model: tuple[int, int]) -> Told:
    """The notes that dpo_side.py leaves of one run, in an empty folder beside the model; of a run that failed its error."""
    home = Path.cwd()
    with tempfile.TemporaryDirectory(dir=".") as name:
        os.chdir(name)
        try:
            Path("model").symlink_to(home / "model")
            Path("run.yaml").write_text(json.dumps(settings_for(program, *settings)))
            words = [python, Path(__file__).resolve().with_name("dpo_side.py"), "notes.json", program, "run.yaml", *model]
            done = subprocess.run(
                list(map(str, words)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )  # fmt: skip
            if done.returncode:
                return {"error": first_line(done.stdout), "output": done.stdout[-3000:]}
            notes: Told = json.loads(Path("notes.json").read_text())
            plan = Path(f"out-{program}", "plan.json")
            return notes | ({"plan": json.loads(plan.read_text())["memory"]} if plan.is_file() else {})
        finally:
            os.chdir(home)


def first_line(output: str) -> str:
    """What a failed program says went wrong: the first line of the last exception."""
    return next(iter(re.findall(r"^[\w.]*(?:Error|Exception|Exit)\b.*", output, re.MULTILINE)[-1:]), output[-200:])


def line(labels: list[str], notes: Told, hones: Told) -> str:
    """A row of the table; the last number is what the program's run takes over what hone's stock run does."""
    if "error" in notes:
        return f"| {' | '.join(labels)} | {notes['error']} |" + " |" * (len(COLUMNS) - len(labels) - 1)
    (rows, length), tokens = notes["batches"][0]["shape"], notes["batches"][0]["tokens"]
    mine, its = (told["peak"] - told["imported"] for told in (hones, notes))
    told = [f"{rows} x {length} ({tokens:,})", " ".join(f"{loss:.4f}" for loss in notes["losses"])]
    sizes = [f"{size >> 20:,}" for size in (notes["imported"], notes["peak"], its)]
    return f"| {' | '.join([*labels, *told, *sizes, f'{its / mine:.2f}'])} |"


def require_same(name: str, found: dict[str, Told]) -> None:
    """SystemExit where the runs of a case did not take the same ids or their losses differ by more than NEAR."""
    ran = {label: notes for label, notes in found.items() if "error" not in notes}
    digests = {label: {one["digest"] for one in notes["batches"]} for label, notes in ran.items()}
    if len(set.union(*digests.values())) != 1:
        raise SystemExit(f"{name}: not the same token ids: {digests}")
    losses = {label: notes["losses"] for label, notes in ran.items()}
    for step in zip(*losses.values(), strict=True):
        if max(step) - min(step) > NEAR:
            raise SystemExit(f"{name}: not the same losses: {losses}")


def run_case(name: str, pythons: dict[str, Path], model: tuple[int, int]) -> dict[str, Told]:
    """Print the case's rows; the notes of its runs by program and setting."""
    case, found = CASES[name], {}
    for program, python in pythons.items():
        for setting, way in (WAYS[program] | (MORE[program] if case.more else {})).items():
            notes = found[f"{program}, {setting}"] = measure(program, python, (case, way), model)
            if program == "hone" and "error" in notes:
                raise SystemExit(notes["output"])
            print(line([name, program, setting], notes, found["hone, stock"]), flush=True)
    require_same(name, found)
    return found


def plan_lines(found: dict[str, dict[str, Told]]) -> list[str]:
    """The table of hone's plan: estimate and peak in MiB, and the peak over it, whole and without what the libraries hold."""
    lines = ["| case | setting | plan | peak | peak / plan | without libraries | parts |", "|---|---|---|---|---|---|---|"]
    for name, runs in found.items():
        for label, notes in runs.items():
            if "plan" not in notes:
                continue
            parts, peak = notes["plan"], notes["peak"]
            total, held = sum(parts.values()), parts["libraries"]
            said = ", ".join(f"{part} {size >> 20:,}" for part, size in parts.items() if size)
            told = (f"{total >> 20:,}", f"{peak >> 20:,}", f"{peak / total:.2f}", f"{(peak - held) / (total - held):.2f}", said)
            lines.append(f"| {name} | {label.removeprefix('hone, ')} | {' | '.join(told)} |")
    return lines


def main() -> None:
    """Print a line a run, in MiB, then hone's plans, the versions and the time it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", type=Path, default=TOKENIZER, help="a folder with the tokenizer of Llama 3.1")
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS, help="where the peers' environments are or are made")
    parser.add_argument("--programs", nargs="*", default=list(WAYS)[1:], choices=list(WAYS)[1:], help="peers; both if left out")
    parser.add_argument("names", nargs="*", metavar="case", help=f"all where none is named: {'; '.join(CASES)}")
    asked = parser.parse_intermixed_args()
    pythons = {"hone": Path(sys.executable)} | {peer: python_of(peer, asked.environments) for peer in asked.programs}
    tokenizer, start = asked.tokenizer.absolute(), time.monotonic()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        model = make_model(Path(folder), tokenizer)
        print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
        found = {name: run_case(name, pythons, model) for name in asked.names or CASES}
        os.chdir("/")
    print("", *plan_lines(found), "", sep="\n")
    told = [(label.partition(",")[0], notes) for runs in found.values() for label, notes in runs.items()]
    ran: dict[str, Told] = {}
    for program, notes in told:
        ran[program] = ran.get(program, {}) | notes.get("versions", {})
    print(*(f"{program}: {known}" for program, known in ran.items()), f"{time.monotonic() - start:.0f} s", sep="\n")


if __name__ == "__main__":
    main()
