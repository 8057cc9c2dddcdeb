"""Kill points: a run is killed before each single thing that it does to a file, and once more with that file half written.

    python bench/kill_points.py [--every 1] [--twice 40]

The run, forked from a process that has imported everything, counts what it does below its output_dir and its token cache (audit
events of Python) and is killed before the k-th deed, for every k there is: before a lock is taken, a manifest written, a folder
renamed, an old checkpoint removed, the final model moved. Then the same command must finish, with the weights of a run that
nobody killed, and every checkpoint that was said to be saved must be whole. --twice: the second run is killed too, by chance.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from faults import Ward, make_inputs, wait
from safetensors.torch import load_file

from hone.training.checkpoints import checkpoint

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_EVENTS = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "os.truncate", "shutil.rmtree")


def dying(place: Path, number: int, told: Path) -> Callable[[int], None]:
    """For `Ward.start`: the process dies before its `number`-th deed below `place`; `told` has all it came to, a line each."""

    def fault(_: int) -> None:
        come = 0

        def hear(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal come
            writes = event == "open" and isinstance(arguments[2], int) and bool(arguments[2] & _WRITES)
            if not writes and event not in _EVENTS:
                return
            path = str(arguments[0])
            within = path.startswith(str(place)) or (event in ("os.remove", "os.rmdir") and not path.startswith("/"))
            if within and not path.endswith((".log", str(told))) and "/.beat" not in path and ".heart" not in path:
                come += 1
                with os.fdopen(os.open(told, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "a") as file:
                    file.write(f"{event} {path}\n")
                if come == number:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hear)

    return fault


class Trial:
    """Runs of one setting, each in a folder of its own, held against one that nobody killed."""

    def __init__(self, inputs: Path):
        self.ward, self.lost, self.number = Ward(inputs, 1, max_steps=5, save_steps=2, save_total_limit=1), 0, 0
        self.anew()
        self.finish("a run that nobody kills")
        self.wanted = self.weights()

    def anew(self) -> None:
        """A new output_dir and a token cache that is not there yet."""
        self.ward.anew()
        cache = self.ward.folder.with_name("cache")
        self.ward.file.write_text(self.ward.file.read_text().replace(str(self.ward.inputs / "cache"), str(cache)))
        self.told = self.ward.inputs / "deeds.txt"

    def weights(self) -> dict[str, torch.Tensor]:
        """Of the final model."""
        return load_file(self.ward.folder / "model.safetensors")

    def kill(self, number: int) -> str:
        """Start, and die before the `number`-th deed: what that was, "" where the run ended before it."""
        self.told.unlink(missing_ok=True)
        children = self.ward.start(dying(self.ward.folder.parent, number, self.told))
        wait(children)
        deeds = self.told.read_text().splitlines() if self.told.is_file() else []
        saved = [int(line.rpartition("checkpoint-")[2]) for line in self.ward.log().splitlines() if line.startswith("saved ")]
        if max(saved, default=0) > max(self.ward.whole(), default=0):
            self.lose(f"checkpoint-{max(saved)} was saved and is not whole after deed {number}")
        return deeds[number - 1] if len(deeds) >= number else ""

    def tear(self, deed: str) -> bool:
        """Leave the file that was just being written half of what it holds; whether there is one."""
        path = Path(deed.partition(" ")[2])
        if not deed.startswith("open ") or not path.is_file() or not path.stat().st_size:
            return False
        os.truncate(path, path.stat().st_size // 2)
        return True

    def finish(self, after: str) -> None:
        """The same command ends well, and with the weights of a run that nobody killed."""
        children = self.ward.start()
        wait(children)
        if not (self.ward.folder / "train_results.json").is_file() or "Error: " in self.ward.log():
            self.lose(f"it did not finish after {after}")
            return
        if problem := checkpoint.problem_of(self.ward.folder / "checkpoint-5"):
            self.lose(f"after {after}: {problem}")
        wanted = getattr(self, "wanted", None)
        found = self.weights()
        if wanted and any(not torch.equal(found[name], wanted[name]) for name in wanted):
            self.lose(f"other weights after {after}")

    def lose(self, why: str) -> None:
        """Count a loss and keep its run."""
        self.lost += 1
        self.ward.keep(why)


def main() -> int:
    """Every point, then every point with its file torn, then two points after each other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="take each n-th point")
    parser.add_argument("--twice", type=int, default=40)
    parser.add_argument("--first", type=int, default=1)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        make_inputs(Path(name))
        trial, chance = Trial(Path(name)), random.Random(0)
        points, torn, number, before = 0, 0, asked.first, ""
        while True:
            trial.anew()
            if not (deed := trial.kill(number)):
                break
            points += 1
            trial.finish(f"a kill before {number}: {deed}")
            if before.startswith("open "):
                trial.anew()
                trial.kill(number)
                if trial.tear(before):
                    torn += 1
                    trial.finish(f"a kill before {number} with half of {before}")
            before, number = deed, number + asked.every
            if points % 20 == 0:
                print(f"so far {points} points, {torn} files torn, {trial.lost} lost", file=sys.stderr, flush=True)
        for _ in range(asked.twice):
            trial.anew()
            first, second = chance.randrange(1, number), chance.randrange(1, number)
            deeds = [trial.kill(first), trial.kill(second)]
            trial.finish(f"kills before {first} and {second}: {deeds}")
        print(f"| killed before each of {points} deeds | with its file torn {torn} | twice {asked.twice} | lost {trial.lost} |")
    return int(trial.lost > 0)


if __name__ == "__main__":
    sys.exit(main())
