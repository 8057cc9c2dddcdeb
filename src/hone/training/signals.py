"""StopRequest: SIGTERM and Ctrl-C turned into a wish that the loop grants at the end of its step.

Does not know what is saved then.
"""

from __future__ import annotations

import signal
from types import FrameType
from typing import Self

from hone import log

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Within `with StopRequest() as request:` a first signal sets `request.signal`; a second one acts as it always does."""

    def __init__(self) -> None:
        self.signal = 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _note(self, number: int, _: FrameType | None) -> None:
        self.signal = number
        self._restore()
        name = signal.Signals(number).name
        log.info(f"\n{name} received: the run saves a checkpoint after this step and ends; once more ends it now")

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
