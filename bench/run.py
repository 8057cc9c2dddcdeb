"""hone beside its peers on a CPU: `python bench/run.py [CASE ...]`, no name for all that fit into a quarter of an hour.

Knows no figure of its own: cases.toml says what runs, report.py what it means. Peers' environments are made by the first call.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from datetime import date
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import inputs
from cases import Case, Setting, read
from environments import ENVIRONMENTS, python_of
from report import Measured, goal_lines, measured, plain_table, read_goals, training_table
from startup import DATA, START, measure_data, measure_start, pythons_for
from turns import alternate


def main() -> None:
    """Print a table a case, the goals, the versions and the machine."""
    told, cases = read()
    asked = arguments(cases)
    found: dict[str, list[Measured]] = {}
    versions: dict[str, dict[str, str]] = {}
    begun, load = time.monotonic(), os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        given = inputs.make(folder, told, asked.data)
        for chosen in asked.cases or [name for name, case in cases.items() if not case.extra]:
            case = cases[chosen]
            print(f"\n## {case.name}: {case.title}\n", flush=True)
            place = folder / "runs" / case.name
            place.mkdir(parents=True)
            if case.work == "train":
                found[chosen] = train(case, given, place, asked, versions)
                lines = training_table(case, found[chosen])
            else:
                pythons = pythons_for(asked.environments)
                measure = {"start": measure_start, "data": measure_data}[case.work]
                mine = given if case.work == "start" else inputs.multiply(place / "rows", given, case.copies)
                found[chosen] = measure(case, mine, place, pythons, asked.rounds)
                lines = plain_table(found[chosen], START if case.work == "start" else DATA)
            print("", *lines, sep="\n", flush=True)
    print("\n## Goals\n", *goal_lines(read_goals(), found), sep="\n")
    print("\n", *told_of(versions, time.monotonic() - begun, load), sep="\n")


def arguments(cases: dict[str, Case]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", choices=[[], *cases], help=f"one of {', '.join(cases)}")
    parser.add_argument(
        "--only", nargs="*", default=["*"], metavar="SETTING", help='such as "hone *" "trl best"; all if left out'
    )
    parser.add_argument("--steps", type=int, default=4, help="optimizer steps of a training run; the first is not in the rates")
    parser.add_argument("--rounds", type=int, default=3, help="times that start-up and data preparation are measured")
    parser.add_argument("--data", type=Path, default=inputs.DATA, help="tokenizers/llama-2 and llamafactory/*_en_demo.json")
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS, help="where the peers' environments are or are made")
    return parser.parse_intermixed_args()


def train(
    case: Case, given: dict[str, Any], place: Path, asked: argparse.Namespace, versions: dict[str, dict[str, str]]
) -> list[Measured]:
    """The case's settings, those asked for and hone's first, which the others' losses are compared with."""
    settings = [one for n, one in enumerate(case.settings) if not n or any(fnmatch(one.label, like) for like in asked.only)]
    begun = [(one.label, place / f"run{n}", *started(case, one, given, asked)) for n, one in enumerate(settings)]
    notes = alternate(begun, asked.steps, tell=lambda line: print(line, flush=True))
    reference = notes[settings[0].label]
    if "error" in reference:
        raise SystemExit(f"{settings[0].label}: {reference['error']}")
    for one in settings:
        versions.setdefault(one.system, {}).update(notes[one.label].get("versions", {}))
    return [measured(case, one, notes[one.label], reference) for one in settings]


def started(case: Case, setting: Setting, given: dict[str, Any], asked: argparse.Namespace) -> tuple[Path, dict[str, Any]]:
    """The python and the job of a run."""
    return python_of(setting.system, asked.environments), case.job(setting, given, steps=asked.steps)


def told_of(versions: dict[str, dict[str, str]], seconds: float, load: float) -> list[str]:
    """When, where and with what."""
    cpu = Path("/proc/cpuinfo").read_text()
    name = next(
        (line.partition(":")[2].strip() for line in cpu.splitlines() if line.startswith("model name")), platform.machine()
    )
    has = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f" {flag}" in cpu]
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    lines = [
        f"{date.today()}, {seconds / 60:.0f} minutes, one thread a run. {os.cpu_count()} cores of {name} ({' '.join(has)}), "
        f"{memory:.0f} GiB; load {load:.1f} before, {os.getloadavg()[0]:.1f} after."
    ]
    return lines + [
        f"{system}: {', '.join(f'{name} {its}' for name, its in known.items())}" for system, known in versions.items()
    ]


if __name__ == "__main__":
    main()
