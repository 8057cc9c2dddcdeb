"""hone on one big GPU beside plain transformers with SDPA: `python bench/gpu/run.py [CASE ...] [--out FOLDER]`, in ten minutes.

First the checks of gpu/checks.py, then runs by what they are worth (gpu/cases.toml), each in a process and a time of its own: one
that fails, or finds no memory, costs its own line. What was found is printed and written as it comes. `--plan` says what would
run and how long it should take; `--toy` runs every case shrunk, also on a CPU, to show that it would. Not yet run on a device.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import documents
import expected
import torch
from cases import Case, Setting, read
from environments import ENVIRONMENTS, PACKAGES, python_of
from flops import flops_per_token, work_of
from inputs import DATA
from ledger import HEADS, Ledger
from transformers import AutoConfig
from turns import alone, last_error

HERE = Path(__file__).resolve().parent
DATASETS = {"sft": "documents", "dpo": "pairs"}
LEAST, TIMES = 60.0, 3.0
"""A run may take so many times what is expected of it, and so many seconds at least."""
STEPS_LEFT = 15.0
"""Seconds before the end after which nothing is begun that should take longer."""
Run = tuple[Case, Setting]


def main() -> None:
    """Checks, then a line a run until the time is over."""
    told, cases = read(HERE / "cases.toml")
    asked = arguments(cases)
    runs = schedule(told["order"], cases, asked)
    if asked.plan:
        print("\n".join(plan(runs, asked)))
        return
    begun = time.monotonic()
    ceiling = measure_ceiling()
    head = f"{device_name()}; torch {torch.__version__}; bf16 products {ceiling / 1e12:.1f} TFLOP/s"
    print(head + "\n\n" + "\n".join(missing(runs, asked)), flush=True)
    if asked.out:
        asked.out.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(head, ceiling, asked.out)
    if not asked.no_checks:
        ledger.checks = check(asked)
    print(f"| case | {' | '.join(HEADS)} |\n|{'---|' * (len(HEADS) + 1)}", flush=True)
    with tempfile.TemporaryDirectory() as place:
        Bench(asked, ledger, Path(place), begun + 60 * asked.minutes).go(runs)
    print("\n" + ledger.text(), flush=True)


def arguments(cases: dict[str, Case]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", choices=[[], *cases], help=f"one of {', '.join(cases)}")
    parser.add_argument("--plan", action="store_true", help="what would run, and what it should take on an H200")
    parser.add_argument("--toy", action="store_true", help="two narrow layers and rows of a 32nd, on a CPU where there is no GPU")
    parser.add_argument("--only", nargs="*", default=["hone *", "transformers *", "trl *"], metavar="SETTING", help="* for all")
    parser.add_argument("--begin", type=int, default=1, metavar="NUMBER", help="of the run in the plan that comes first")
    parser.add_argument("--steps", type=int, default=5, help="optimizer steps; the first is not in the rates")
    parser.add_argument("--minutes", type=float, default=9.3, help="no run goes on after so many")
    parser.add_argument("--out", type=Path, help="folder for results.md, results.json and logs.txt")
    parser.add_argument("--no-checks", action="store_true")
    parser.add_argument("--data", type=Path, default=DATA, help="the folder of model_configs, tokenizers and llamafactory")
    parser.add_argument(
        "--scratch", type=Path, help="where models are written; /dev/shm where there is room, else for temporary files"
    )
    parser.add_argument("--environments", type=Path, nargs="?", const=ENVIRONMENTS, help="make the peers' environments there")
    return parser.parse_intermixed_args()


def schedule(order: list[str], cases: dict[str, Case], asked: argparse.Namespace) -> list[Run]:
    """The runs that are asked for and whose system is here, by their worth."""
    wanted = [cases[name] for name in asked.cases or cases]
    runs = [(case, one) for case in wanted for one in case.settings if any(fnmatch(one.label, like) for like in asked.only)]
    unknown = set(order) - {f"{case.name} {one.label}" for case in cases.values() for one in case.settings}
    assert not unknown, f"order names what is no run: {', '.join(sorted(unknown))}"
    place = {label: number for number, label in enumerate(order)}
    runs = [one for one in runs if is_here(one[1].system, asked)]
    runs.sort(key=lambda one: place.get(f"{one[0].name} {one[1].label}", len(place)))
    return runs[asked.begin - 1 :]


def is_here(system: str, asked: argparse.Namespace) -> bool:
    """Whether it is installed beside hone, or has an environment, or may be given one."""
    return asked.environments is not None or system == "hone" or find_spec(system) is not None


def missing(runs: Iterable[Run], asked: argparse.Namespace) -> list[str]:
    """In words, which systems are not measured and why."""
    gone = [name for name in PACKAGES if not is_here(name, asked)]
    return (
        [f"not installed here, so not measured: {', '.join(gone)}; --environments makes them from their packages"] if gone else []
    )


def plan(runs: list[Run], asked: argparse.Namespace) -> list[str]:
    """A line a run: when it should end on an H200, out of floors and shares of them."""
    clock, made, lines = expected.seconds_of_checks(), set(), [f"  0  {'checks':<40}{expected.seconds_of_checks():>6.0f} s"]
    for number, (case, setting) in enumerate(runs, asked.begin):
        config = config_of(case, asked)
        making = 0.0 if case.model in made else expected.seconds_to_make(config)
        made.add(case.model)
        taken = expected.seconds_of(case, setting, config, asked.steps)
        step = expected.seconds_of_step(case, setting, config)
        clock += making + taken
        late = "" if clock < 60 * asked.minutes else "  too late"
        name, more = f"{case.name} {setting.label}", f" and {making:.0f} s to make the model" if making else ""
        lines.append(f"{number:>3}  {name:<40}{taken:>6.0f} s  at {clock:>4.0f} s  ({step:.2f} s a step{more}){late}")
    return lines


def config_of(case: Case, asked: argparse.Namespace) -> Any:
    """The real model's."""
    return AutoConfig.from_pretrained(asked.data / "model_configs" / case.model)


def check(asked: argparse.Namespace) -> list[str]:
    """What gpu/checks.py says, line by line; one that ends the process is named, and the others go on in another."""
    lines: list[str] = []
    for _ in range(5):
        words = [sys.executable, str(HERE / "checks.py"), *(["--toy"] if asked.toy else []), "--after", *names_of(lines)]
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as child:
            said = []
            for line in child.stdout or ():
                said.append(line)
                if line.startswith("check "):
                    print(line, end="", flush=True)
                    lines.append(line.rstrip())
        if "checks done\n" in said:
            break
        name = next((line.split()[1] for line in reversed(said) if line.startswith("begins ")), "")
        lines.append(f"check {name}: WRONG: it ended the process: {last_error(''.join(said))}")
        print(lines[-1], flush=True)
    return lines


def names_of(lines: list[str]) -> list[str]:
    """Of the checks that were made."""
    return [line.split()[1].rstrip(":") for line in lines]


@dataclass
class Bench:
    """The runs of one call, one after the other. ends: by time.monotonic(); homes: where each model's files are."""

    asked: argparse.Namespace
    ledger: Ledger
    place: Path
    ends: float
    homes: dict[str, Path] = field(default_factory=dict)
    made: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)
    spoilt: dict[str, str] = field(default_factory=dict)

    def go(self, runs: list[Run]) -> None:
        """All of them, as long as there is time."""
        for number, (case, setting) in enumerate(runs):
            line = self.line(case, setting, number)
            print(f"| {case.name} {line}", flush=True)
            if case.model in self.homes and not any(later.model == case.model for later, _ in runs[number + 1 :]):
                shutil.rmtree(self.homes.pop(case.model), ignore_errors=True)

    def line(self, case: Case, setting: Setting, number: int) -> str:
        """Of one run, or why there is none."""
        config, left = config_of(case, self.asked), self.ends - time.monotonic()
        wanted = 0.0 if self.asked.toy else expected.seconds_of(case, setting, config, self.asked.steps)
        making = 0.0 if self.asked.toy or case.model in self.homes else expected.seconds_to_make(config)
        why = self.spoilt.get(case.model, "")
        if not why and left < max(wanted + making, STEPS_LEFT):
            why = f"{left:.0f} s are left, and it should take {wanted + making:.0f}"
        if not why:
            try:
                inputs = self.inputs(case, TIMES * making + LEAST)
                python = python_of(setting.system, self.asked.environments) if self.asked.environments else Path(sys.executable)
            except (SystemExit, subprocess.SubprocessError, OSError) as problem:
                why = self.spoilt[case.model] = f"its model could not be made: {problem}"
        if why:
            line = f"| {setting.label} | left out: {why} |" + " |" * (len(HEADS) - 2)
            self.ledger.say(case, line)
            return line
        return self.run(case, setting, inputs, python, number, wanted)

    def run(self, case: Case, setting: Setting, inputs: dict[str, Any], python: Path, number: int, wanted: float) -> str:
        """The line of a run that is made."""
        job = case.job(setting, inputs, steps=self.asked.steps, cpu=not torch.cuda.is_available()) | {
            "dataset": DATASETS[case.stage]
        }
        limit = min(max(LEAST, TIMES * wanted), max(1.0, self.ends - time.monotonic()))
        folder = self.place / f"run{number}"
        notes = alone(folder, python, job, threads=1 if self.asked.toy else 8, limit=None if self.asked.toy else limit)
        work = work_of(AutoConfig.from_pretrained(inputs["model"]))
        flops = flops_per_token(work, inputs["longest"], method=case.method, rank=case.rank, reference=case.stage == "dpo")
        line = self.ledger.add(case, setting, notes, folder, flops)
        shutil.rmtree(folder, ignore_errors=True)
        return line

    def inputs(self, case: Case, limit: float) -> dict[str, Any]:
        """The model, made once, and the rows of a case, and where they are."""
        length = max(64, case.length // 32) if self.asked.toy else case.length
        if case.model not in self.homes:
            size = 0 if self.asked.toy else expected.weights_of(config_of(case, self.asked))
            self.homes[case.model] = Path(tempfile.mkdtemp(dir=self.asked.scratch or room(size)))
        folder = self.homes[case.model]
        if (case.model, 0) not in self.made:
            told = {"data": str(self.asked.data), "model": case.model, "tokenizer": case.tokenizer, "toy": self.asked.toy}
            words = [sys.executable, HERE / "make_model.py", folder, json.dumps(told | {"length": 65536})]
            made = subprocess.run(words, check=False, capture_output=True, text=True, timeout=limit)
            if made.returncode:
                raise SystemExit(last_error(made.stderr))
            self.made[case.model, 0] = json.loads(made.stdout.splitlines()[-1])
        rows = folder / f"data-{length}"
        if (case.model, length) not in self.made:
            most = self.asked.steps * max(case.batch, 8)
            self.made[case.model, length] = documents.make(rows, self.asked.data, folder / "model", length=length, rows=most)
        tokens = {case.dataset: self.made[case.model, length][DATASETS[case.stage]]}
        where = {"model": str(folder / "model"), "data": str(rows), "longest": length, "tokens": tokens}
        return self.made[case.model, 0] | where


def room(bytes_wanted: int) -> Path:
    """A folder in memory where there is room for a model, else the one for temporary files."""
    shared = Path("/dev/shm")
    free = shutil.disk_usage(shared).free if shared.is_dir() else 0
    return shared if free > 1.2 * bytes_wanted else Path(tempfile.gettempdir())


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
