"""StopRequest: SIGTERM, SIGUSR1 and Ctrl-C turned into a wish that the loop grants at the end of its step.

Does not know what is saved then.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Self

from hone import log

SIGNALS = (signal.SIGTERM, signal.SIGINT, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []))
"""What asks a run to stop: a scheduler's signals (SLURM's --signal sends the one that is named there), and Ctrl-C."""

ECHO_SECONDS = 1.0
"""A second signal so soon is the first one again: schedulers signal every process of a job, and a launcher hands its own on."""


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
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
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
