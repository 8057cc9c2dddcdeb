"""RewardFunction: a user's Python function, called in a process of its own, within a time limit.

Does not know what is made of the numbers.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hone.errors import RunError, TrainingError
from hone.objectives.rewards.case import Case

OURS = ("prompts", "completions", "completion_ids", "answers")
"""Names a column of the data may not have: they are what hone gives."""
START_SECONDS = 120.0
"""Importing the module of a function may take longer than calling it: a reward model, say."""


class RewardFunction:
    """`RewardFunction("rewards.py:brevity", seconds=60)(cases)` gives a number a case.

    The function is called with keywords alone, each a list with one item an answer: `def brevity(completions, **columns) ->
    list[float]`. completions: texts; prompts: the messages before, as OpenAI writes them; answers: the reference texts;
    completion_ids: token ids; and each further column of the rows by its name (None in rows of another set that lack it).
    """

    def __init__(self, place: str, *, seconds: float):
        self.place, self._seconds = place, seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._rest = b""

    def start(self) -> None:
        """Start the process and import the function. Raises RunError where it is not there."""
        source = self.place.rpartition(":")[0]
        if source.endswith(".py") and not Path(source).expanduser().is_file():
            raise RunError(f"reward_funcs: {self.place}: there is no file {source}; write path/to/file.py:function")
        path = os.pathsep.join(filter(None, (os.getcwd(), *sys.path)))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "hone.objectives.rewards.worker", self.place],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )
        weakref.finalize(self, _end, self._process)  # also where the run ends before it closes what it opened
        reply = self._reply(START_SECONDS, f"importing {source}")
        if "error" in reply:
            self.close()
            raise RunError(f"reward_funcs: {self.place} cannot be loaded: {reply['error']} (at {reply['at']})")

    def __call__(self, cases: Sequence[Case]) -> list[float]:
        """The rewards of the cases, in order.

        Raises TrainingError, naming the function and the rows, where it raises, takes too long, or returns anything but a finite
        number a case.
        """
        if not cases:
            return []
        if self._process is None:
            self.start()
        rows = _rows(cases)
        self._send(arguments_of(cases))
        reply = self._reply(self._seconds, f"{self.place} of {rows}")
        if "error" in reply:
            raise TrainingError(f"reward function {self.place} failed on {rows}: {reply['error']} (at {reply['at']})")
        return checked(reply["value"], self.place, cases)

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            _end(self._process)
            self._process = None

    def _send(self, arguments: Mapping[str, Any]) -> None:
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(arguments).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it is gone, which reading its reply tells, with its exit code

    def _reply(self, seconds: float, what: str) -> dict[str, Any]:
        """The next line of the process. Raises TrainingError where none comes in time, or it has ended."""
        assert self._process is not None and self._process.stdout is not None
        pipe, end = self._process.stdout.fileno(), time.monotonic() + seconds
        while b"\n" not in self._rest:
            left = end - time.monotonic()
            ready = select.select([pipe], [], [], max(0.0, left))[0]
            if not ready:
                self.close()
                raise TrainingError(
                    f"reward function: {what} did not end within {seconds:g} seconds and was stopped; "
                    "mend it, or raise reward_timeout"
                )
            piece = os.read(pipe, 1 << 20)
            if not piece:
                code = self._process.wait()
                self.close()
                raise TrainingError(f"reward function: {what}: its process ended by itself (exit code {code})")
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        return json.loads(line)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
        process.communicate()


def arguments_of(cases: Sequence[Case]) -> dict[str, list[Any]]:
    """The keywords a function is called with. Raises RunError where a column has a name of hone's."""
    names = dict.fromkeys(name for case in cases for name in case.columns)
    if taken := [name for name in names if name in OURS]:
        raise RunError(f'the data have a column "{taken[0]}", a name under which hone gives reward functions its own; rename it')
    return {
        "prompts": [list(case.prompt) for case in cases],
        "completions": [case.completion for case in cases],
        "completion_ids": [list(case.ids) for case in cases],
        "answers": [case.answer for case in cases],
        **{name: [case.columns.get(name) for case in cases] for name in names},
    }


def checked(value: Any, name: str, cases: Sequence[Case]) -> list[float]:
    """`value` as one finite number a case; TrainingError says which function and row gave something else."""
    if not isinstance(value, list):
        raise TrainingError(f"reward function {name} returned {value!r}; a list with one number for each completion is wanted")
    if len(value) != len(cases):
        raise TrainingError(
            f"reward function {name} returned {len(value)} rewards for {len(cases)} completions of {_rows(cases)}"
        )
    for number, case in zip(value, cases, strict=True):
        if not isinstance(number, int | float) or number != number or abs(number) == float("inf"):
            raise TrainingError(
                f"reward function {name} returned {number!r} for {case.place or 'a completion'}, "
                f"which was answered {case.completion[:80]!r}; a finite number is wanted"
            )
    return [float(number) for number in value]


def _rows(cases: Sequence[Case]) -> str:
    places = list(dict.fromkeys(case.place for case in cases if case.place))
    return ", ".join(places[:5]) + (f" and {len(places) - 5} more" if len(places) > 5 else "") or f"{len(cases)} completions"
