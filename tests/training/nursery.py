"""Runs `hone train FILE` in children that somebody kills, one after the other; everything is imported once, before the forks.

Usage: nursery.py FILE OUTPUT_DIR KILLS SEED. Prints one JSON line a child: what it resumed from, what was whole before and after.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from hone.commands import train, train_run  # noqa: F401 (the run's imports, before the forks)
from hone.training.checkpoints import checkpoint


def child(settings: str, log_file: Path) -> int:
    """Fork a run whose lines go to `log_file`; returns its process id."""
    process = os.fork()
    if process:
        return process
    with log_file.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        code = 1
        try:
            code = train.main([settings])
        finally:
            file.flush()
            os._exit(code)


def kill_during_save(process: int, output_dir: Path, delay: float) -> bool:
    """Kill `process` `delay` seconds after a save begins; False where it ended before."""
    while not list(output_dir.glob(".checkpoint-*.writing")):
        if os.waitpid(process, os.WNOHANG)[0]:
            return False
        time.sleep(0.0005)
    time.sleep(delay)
    return kill(process)


def kill(process: int) -> bool:
    """SIGKILL; True where it was still alive."""
    try:
        os.kill(process, signal.SIGKILL)
        _, status = os.waitpid(process, 0)
    except ChildProcessError:
        return False
    return os.WIFSIGNALED(status)


def whole(output_dir: Path) -> list[int]:
    """Steps of the complete checkpoints."""
    return [checkpoint.step_of(path) for path in checkpoint.checkpoints(output_dir) if not checkpoint.problem_of(path)]


def main(settings: str, folder: str, kills: int, seed: int) -> None:
    """Kill `kills` children at random moments, every second one during a save; then let one finish."""
    chance, output_dir = random.Random(seed), Path(folder)
    log_file = output_dir.parent / "child.log"
    for number in range(kills):
        before = whole(output_dir)
        process = child(settings, log_file)
        if number % 2:
            killed = kill_during_save(process, output_dir, chance.uniform(0, 0.03))
        else:
            time.sleep(chance.uniform(0.2, 1.5))
            killed = kill(process)
        said = [line for line in log_file.read_text().splitlines() if line.startswith("continuing")]
        print(json.dumps({"before": before, "after": whole(output_dir), "killed": killed, "said": said}), flush=True)
    _, status = os.waitpid(child(settings, log_file), 0)
    print(json.dumps({"finished": os.waitstatus_to_exitcode(status), "log": log_file.read_text()[-2000:]}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
