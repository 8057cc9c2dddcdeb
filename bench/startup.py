"""The cases that train nothing to speak of: start-up of the commands, and preparation of data.

Does not know how the figures are shown.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cases import Case, Setting
from environments import python_of
from report import Measured
from turns import Running, environment

MODULES = {"hone": "hone", "llamafactory": "llamafactory.cli"}
START = {
    "help": "`train --help`, cpu s", "help_wall": "s", "mistake": "a mistake told, cpu s", "mistake_wall": "s",
    "first": "first step, data cached, cpu s", "first_wall": "s",
}  # fmt: skip
TEMPLATE = "llama2"
"""The format that data are prepared in: by its name, as most settings of both systems say it."""
DATA = {"prepare": "cpu s", "wall": "s"}
MISTAKE = "learnign_rate"


def command(python: Path, words: list[str], folder: Path) -> tuple[float, float, int, str]:
    """Seconds, processor seconds, exit code and output of a command."""
    folder.mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()
    with (folder / "log.txt").open("w") as log:
        child = subprocess.Popen(
            [str(python), *words], cwd=folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment(folder, 1)
        )
        _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - begun
    return seconds, used.ru_utime + used.ru_stime, child.returncode, (folder / "log.txt").read_text(errors="replace")


def measure_start(
    case: Case, inputs: Mapping[str, Any], folder: Path, pythons: Mapping[str, Path], rounds: int
) -> list[Measured]:
    """Each command of both systems in turn, `rounds` times, and runs of one step whose data were prepared by one before."""
    found: dict[str, dict[str, list[float]]] = {system: {name: [] for name in START} for system in MODULES}
    run = Case("", "train", "")
    for number in range(-1, rounds):  # the first is not counted: files are read and data prepared
        for system, module in MODULES.items():
            place = folder / f"{system}{number}"
            job = run.job(Setting(system, "", {"tokenized_path": str(folder / f"{system}-tokens")}), inputs, steps=1)
            place.mkdir()
            (place / "wrong.yaml").write_text(json.dumps({"model_name_or_path": inputs["model"], "stage": "sft", MISTAKE: 1e-4}))
            helped = command(pythons[system], ["-m", module, "train", "--help"], place)
            told = command(pythons[system], ["-m", module, "train", "wrong.yaml"], place)
            if helped[2] or not told[2] or MISTAKE not in told[3]:
                raise SystemExit(f"{system}: help ended with {helped[2]}, a mistake with {told[2]}: {told[3][-500:]}")
            step = first_step(place / "first", pythons[system], job)
            if number >= 0:
                for name, pair in (("help", helped), ("mistake", told), ("first", (step["wall"], step["cpu"]))):
                    found[system][f"{name}_wall"].append(pair[0])
                    found[system][name].append(pair[1])
    return [Measured(system, figures) for system, figures in found.items()]


def first_step(folder: Path, python: Path, job: dict[str, Any]) -> dict[str, float]:
    """A run's first step."""
    running = Running.begin("", folder, python, job)
    running.take()
    notes = running.finish()
    if "error" in notes:
        raise SystemExit(f"{job['system']}: {notes['error']}")
    return notes["steps"][0]


def measure_data(case: Case, inputs: Mapping[str, Any], folder: Path, pythons: Mapping[str, Path], rounds: int) -> list[Measured]:
    """Rows of both systems prepared by one process and by two, and read again from what the first left."""
    ways = {"one process": {}, "two processes": {"preprocessing_num_workers": 2}, "read again": {}}
    found = {f"{system}, {way}": {name: [] for name in DATA} for way in ways for system in MODULES}
    run = Case("", "train", "", dataset="many")
    for number in range(rounds):
        for way, words in ways.items():
            for system in MODULES:
                place = folder / f"{number}-{system}-{way.replace(' ', '-')}"
                kept = {"template": TEMPLATE, "tokenized_path": str(folder / f"{number}-{system}-tokens-{way if words else ''}")}
                job = run.job(Setting(system, "", words | kept), inputs, steps=1) | {"work": "prepare", "spawned": 0.0}
                running = Running.begin("", place, pythons[system], job)
                running.take()
                result = running.finish()
                if "error" in result or result["rows"] != len(inputs["tokens"]["many"]):
                    raise SystemExit(f"{system}, {way}: {result}")
                found[f"{system}, {way}"]["prepare"].append(result["cpu"])
                found[f"{system}, {way}"]["wall"].append(result["wall"])
    return [Measured(label, figures) for label, figures in found.items()]


def pythons_for(folder: Path) -> dict[str, Path]:
    """Of the systems that these cases compare."""
    return {system: python_of(system, folder) for system in MODULES}
