"""StopRequest: SIGTERM, SIGUSR1 and Ctrl-C turned into a wish that the loop grants at the end of its step.

Before there is a step they end the process, with the code that the run would end with. Does not know what is saved.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Self

from hone import log

SIGNALS = (signal.SIGTERM, signal.SIGINT, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []))
"""What asks a run to stop: a scheduler's signals (SLURM's --signal sends the one that is named there), and Ctrl-C."""

ECHO_SECONDS = 1.0
"""A second signal so soon is the first one again: schedulers signal every process of a job, and a launcher hands its own on."""

_UNWINDING_SECONDS = 10.0
"""How long a process that ends early may take to put its own processes and files away."""
_PARENT_DIED = 1
"""Linux's PR_SET_PDEATHSIG."""

_ordinary: dict[object, dict[int, object]] = {}
"""Of what ends this process early: what was there before, and is again from the first StopRequest on."""


class _Ended(BaseException):
    """A signal came before there was anything to save. Nobody takes it for an error of what was being done."""

    def __init__(self, code: int) -> None:
        self.code = code


@contextmanager
def ending_early(code_of: Callable[[int], int]) -> Iterator[None]:
    """Within, and until a StopRequest stands, a signal ends this process with `code_of` it, as nothing is to be saved yet.

    Without it a signal in the first seconds would end the process by itself, which torchrun takes for a failure and starts anew.
    """

    own = os.getpid()

    def end(number: int, _: FrameType | None) -> None:
        if os.getpid() != own:  # a worker that was forked meanwhile: its signals are its own
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        log.info(f"\n{signal.Signals(number).name} received: nothing is to be saved yet, so the run ends")
        code = code_of(number)
        timer = threading.Timer(_UNWINDING_SECONDS, os._exit, (code,))
        timer.daemon = True
        timer.start()
        raise _Ended(code)

    before = {number: signal.signal(number, end) for number in SIGNALS}
    _ordinary[end] = before
    try:
        yield
    except _Ended as ended:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ended.code)  # a process group that is taken apart can wait for ever
    finally:
        del _ordinary[end]
        for number, handler in before.items():
            signal.signal(number, handler)


def end_with_parent() -> None:
    """Have the system send this process SIGTERM when the one that started it dies (Linux): else it would train on, unseen, and
    keep the folder from the run that is started in its place."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PARENT_DIED, int(signal.SIGTERM), 0, 0, 0)


def saying(promise: str) -> Callable[[int], None]:
    """For StopRequest: prints the signal's name and what happens then."""
    return lambda number: log.info(f"\n{signal.Signals(number).name} received: {promise}; once more ends it now")


class StopRequest:
    """Within `with StopRequest(told) as request:` a first signal sets `request.signal` and calls `told` with it.

    A second one acts as it did before the `with`.
    """

    def __init__(self, told: Callable[[int], None]) -> None:
        self.signal = 0
        self._told, self._at = told, 0.0
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        before = {number: signal.signal(number, self._note) for number in SIGNALS}
        self._before = {number: _ordinary.get(handler, before)[number] for number, handler in before.items()}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _note(self, number: int, _: FrameType | None) -> None:
        if not self.signal:
            self.signal, self._at = number, time.monotonic()
            self._told(number)
        elif time.monotonic() - self._at > ECHO_SECONDS:
            self._restore()
            signal.raise_signal(number)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
