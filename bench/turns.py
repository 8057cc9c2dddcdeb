"""Runs that take turns: every system's process is alive, and one at a time makes its next optimizer step.

Does not know what the runs do. A busy moment of the machine falls on all of them alike, which no order of whole runs gives.
"""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SIDE = Path(__file__).resolve().with_name("side.py")
PATIENCE = 900
"""Seconds a run may take for one turn."""


@dataclass
class Running:
    """A run in FOLDER, by `python` of its system's environment; its notes once it has ended."""

    label: str
    folder: Path
    process: subprocess.Popen[bytes]
    heard: int
    tell: int
    over: bool = False
    steps: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def begin(cls, label: str, folder: Path, python: Path, job: dict[str, Any], threads: int = 1) -> Running:
        """Start the run, which goes on until its first step is made."""
        folder.mkdir(parents=True, exist_ok=True)
        hear, told = os.pipe()
        heard, says = os.pipe()
        (folder / "job.json").write_text(json.dumps(job | {"spawned": time.time()}))
        with (folder / "log.txt").open("w") as log:
            words = [python, SIDE, folder, str(hear), str(says)]
            process = subprocess.Popen(
                list(map(str, words)), stdout=log, stderr=log, stdin=subprocess.DEVNULL, pass_fds=(hear, says),
                env=environment(folder, threads),
            )  # fmt: skip
        os.close(hear)
        os.close(says)
        return cls(label, folder, process, heard, told)

    def take(self) -> bool:
        """Wait for the step that is being made; False where the run has ended without one."""
        line = b""
        while not line.endswith(b"\n"):
            if not select.select([self.heard], [], [], PATIENCE)[0]:
                self.process.kill()
            if not (more := os.read(self.heard, 65536)):
                self.over = True
                return False
            line += more
        self.steps.append(json.loads(line))
        return True

    def go(self) -> None:
        """Let it make its next step."""
        os.write(self.tell, b"g")

    def finish(self) -> dict[str, Any]:
        """Let it end; its notes, or what it says went wrong."""
        if not self.over:
            self.go()
        self.process.wait(PATIENCE)
        os.close(self.tell)
        os.close(self.heard)
        return notes_of(self.folder, self.process.returncode)


def alone(folder: Path, python: Path, job: dict[str, Any], threads: int, limit: float | None = None) -> dict[str, Any]:
    """The notes of a run from its beginning to its end, where there is no room for a second one. limit: seconds it may take."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "job.json").write_text(json.dumps(job | {"spawned": time.time()}))
    with (folder / "log.txt").open("w") as log:
        words, variables = [str(python), str(SIDE), str(folder)], environment(folder, threads)
        try:
            done = subprocess.run(
                words, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=variables, check=False, timeout=limit
            )
        except subprocess.TimeoutExpired:
            return {"error": f"not done after {limit:.0f} s"}
    return notes_of(folder, done.returncode)


def notes_of(folder: Path, code: int | None) -> dict[str, Any]:
    """What a run that has ended left: its notes, or what it says went wrong."""
    result = folder / "result.json"
    if code or not result.is_file():
        return {"error": last_error((folder / "log.txt").read_text(errors="replace"))}
    return json.loads(result.read_text())


def environment(folder: Path, threads: int) -> dict[str, str]:
    """The variables of a run: its number of threads, and caches of its own, so that nothing is there before it."""
    numbers = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), str(threads))
    return os.environ | numbers | {"HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}


def alternate(begun: list[tuple[str, Path, Path, dict[str, Any]]], steps: int, tell: Any = print) -> dict[str, dict[str, Any]]:
    """The notes of runs (label, folder, python, job) that take turns; tell: called with a line on each round."""
    running: list[Running] = []
    for label, folder, python, job in begun:
        one = Running.begin(label, folder, python, job)
        said = f"first step after {one.steps[0]['wall']:.1f} s" if one.take() else "ended before its first step"
        tell(f"  {label}: {said}")
        running.append(one)
    for number in range(1, steps):
        for one in running:
            if not one.over:
                one.go()
                one.take()
        said = ", ".join(f"{one.label} {one.steps[-1]['cpu']:.1f}" for one in running if not one.over)
        tell(f"  round {number} of {steps - 1}, processor seconds: {said}")
    return {one.label: one.finish() for one in running}


def last_error(output: str) -> str:
    """What a failed program says went wrong: the first line of its last exception."""
    return next(iter(re.findall(r"^[\w.]*(?:Error|Exception|Exit)\b.*", output, re.MULTILINE)[-1:]), output[-200:])
