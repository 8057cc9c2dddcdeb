"""hone on one big GPU beside plain transformers with SDPA: `python bench/gpu/run.py [CASE ...]`, in under ten minutes.

Knows no figure of its own: gpu/cases.toml says what runs. `--toy` runs every case on a CPU, shrunk, to show that it would.
Not yet run on a device.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import documents
import torch
from cases import Case, Setting, read
from environments import ENVIRONMENTS, python_of
from flops import flops_per_token, work_of
from inputs import DATA
from report import Measured, measured, spread
from transformers import AutoConfig
from turns import alone

HERE = Path(__file__).resolve().parent
DATASETS = {"sft": "documents", "dpo": "pairs"}
FREE = 0.8
"""Share of /dev/shm that must be free for models to be written there."""
HEADS = ("setting", "tokens / s", "faster than plain", "MFU", "peak allocated, GiB", "reserved", "first step, s", "last loss")


def main() -> None:
    """Print the ceiling, and a table a case, until the time is over."""
    _, cases = read(HERE / "cases.toml")
    asked = arguments(cases)
    deadline = time.monotonic() + 60 * asked.minutes
    ceiling = measure_ceiling()
    print(f"{device_name()}; torch {torch.__version__}; bf16 products {ceiling / 1e12:.1f} TFLOP/s\n", flush=True)
    for name in asked.cases or list(cases):
        print(f"## {name}: {cases[name].title}{', toy' if asked.toy else ''}\n\n| {' | '.join(HEADS)} |\n|{'---|' * len(HEADS)}")
        with tempfile.TemporaryDirectory(dir=scratch(asked)) as place:
            for line in run_case(cases[name], Path(place), asked, ceiling, deadline):
                print(line, flush=True)
        print(flush=True)


def arguments(cases: dict[str, Case]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", choices=[[], *cases], help=f"one of {', '.join(cases)}")
    parser.add_argument("--toy", action="store_true", help="two narrow layers and rows of a 32nd of the length, on the CPU")
    parser.add_argument("--only", nargs="*", default=["hone *", "transformers *", "trl *"], metavar="SETTING", help="* for all")
    parser.add_argument("--steps", type=int, default=6, help="optimizer steps; the first is not in the rates")
    parser.add_argument("--minutes", type=float, default=9.5, help="no run is begun after so many")
    parser.add_argument("--data", type=Path, default=DATA, help="the folder of model_configs, tokenizers and llamafactory")
    parser.add_argument("--scratch", type=Path, help="where models are written; /dev/shm where there is room")
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS, help="where the peers' environments are or are made")
    parser.add_argument("--here", action="store_true", help="all systems in this environment: none is made")
    return parser.parse_intermixed_args()


def scratch(asked: argparse.Namespace) -> Path:
    """A folder in memory where there is room, else the one for temporary files."""
    shared = Path("/dev/shm")
    usage = shutil.disk_usage(shared) if shared.is_dir() else None
    return asked.scratch or (shared if usage and usage.free > FREE * usage.total else Path(tempfile.gettempdir()))


def prepare(case: Case, folder: Path, asked: argparse.Namespace, length: int) -> dict[str, Any]:
    """The model and the rows of a case, and where they are."""
    told = {"data": str(asked.data), "model": case.model, "tokenizer": case.tokenizer, "toy": asked.toy, "length": length}
    words = [sys.executable, HERE / "make_model.py", folder, json.dumps(told)]
    made = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    rows = documents.make(folder / "data", asked.data, folder / "model", length=length, rows=asked.steps * case.batch)
    where = {"model": str(folder / "model"), "data": str(folder / "data"), "longest": length}
    return json.loads(made.stdout.splitlines()[-1]) | where | {"tokens": {case.dataset: rows[DATASETS[case.stage]]}}


def run_case(case: Case, folder: Path, asked: argparse.Namespace, ceiling: float, deadline: float) -> Iterator[str]:
    """The lines of the case's table, one as soon as it is there."""
    length = max(64, case.length // 32) if asked.toy else case.length
    inputs = prepare(case, folder, asked, length)
    work = work_of(AutoConfig.from_pretrained(folder / "model"))
    flops = flops_per_token(work, length, method=case.method, rank=case.rank, reference=case.stage == "dpo")
    first: dict[str, Any] = {}
    plain: Measured | None = None
    for number, setting in enumerate(chosen(case, asked)):
        try:
            if time.monotonic() > deadline:
                raise SystemExit("the time is over")
            python = Path(sys.executable) if asked.here else python_of(setting.system, asked.environments)
        except SystemExit as problem:
            yield f"| {setting.label} | left out: {problem} |" + " |" * (len(HEADS) - 2)
            continue
        job = case.job(setting, inputs, steps=asked.steps, cpu=asked.toy) | {"dataset": DATASETS[case.stage]}
        notes = alone(folder / f"run{number}", python, job, threads=1 if asked.toy else 8)
        if not first and "error" not in notes:
            first = notes
        found = measured(case, setting, notes, first or notes)
        yield row(found, notes, plain, flops / ceiling)
        if setting.system != "hone" and plain is None and not found.problem:
            plain = found


def chosen(case: Case, asked: argparse.Namespace) -> list[Setting]:
    """Plain transformers (of DPO, TRL) first, as the others are measured against it."""
    some = [one for one in case.settings if any(fnmatch(one.label, like) for like in asked.only)]
    return sorted(some, key=lambda one: one.system not in ("transformers", "trl"))


def row(found: Measured, notes: dict[str, Any], plain: Measured | None, seconds_per_token: float) -> str:
    """A line of the table. seconds_per_token: what a token takes at the ceiling."""
    if found.problem:
        return f"| {found.label} | no result: {found.problem} |" + " |" * (len(HEADS) - 2)
    later = notes["steps"][1:]
    rates = [step["tokens"] / step["wall"] for step in later]
    over = (
        spread([mine / its for mine, its in zip(found.figures["wall_rate"], plain.figures["wall_rate"], strict=True)])
        if plain
        else ""
    )
    memory = notes.get("device", {"allocated": notes["peak"], "reserved": notes["peak"]})
    shares = spread([rate * seconds_per_token for rate in rates], ".1%")
    sizes = [f"{memory[name] / 2**30:.1f}" for name in ("allocated", "reserved")]
    cells = [found.label, spread(rates, ",.0f"), over, shares, *sizes, f"{notes['steps'][0]['wall']:.1f}"]
    return f"| {' | '.join(cells)} | {notes['steps'][-1]['loss']:.4f} |"


def measure_ceiling(size: int = 8192, times: int = 20) -> float:
    """FLOP a second of large bf16 products on the device; of small ones on a CPU."""
    cuda = torch.cuda.is_available()
    size = size if cuda else 512
    left, right = (torch.randn(size, size, dtype=torch.bfloat16, device="cuda" if cuda else "cpu") for _ in range(2))
    best = float("inf")
    for _ in range(3):
        begun = time.perf_counter()
        for _ in range(times):
            left @ right
        if cuda:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begun)
    return 2 * size**3 * times / best


def device_name() -> str:
    """What the figures are of."""
    if not torch.cuda.is_available():
        return "a CPU: figures of toys, which mean nothing"
    about = torch.cuda.get_device_properties(0)
    return f"{about.name}, {about.total_memory / 2**30:.0f} GiB"


if __name__ == "__main__":
    main()
