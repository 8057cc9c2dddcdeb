"""Pulse: what this process of a run is at, for whoever watches it from another thread.

Does not know who looks. A beat is a few assignments: it costs a step nothing.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Pulse:
    """step: the one being taken, from 1; place: beats since it began, the same on every process at the same point of the work.

    doing: in words; rows: of the data, in work; limited: whether it may be held against the time a process may stay at one place;
    safe: whether weights and optimizer are those of the last finished step, whole.
    """

    step: int = 0
    place: int = 0
    doing: str = "starting"
    rows: tuple[int, ...] = ()
    limited: bool = False
    safe: bool = False

    def begin(self, step: int) -> None:
        """A step begins: its batches are waited for."""
        self.step, self.place, self.rows = step, 0, ()
        self.doing, self.limited, self.safe = "waiting for its batches", True, True

    def beat(self, doing: str, rows: tuple[int, ...] = (), *, limited: bool = True) -> None:
        """Another place is reached."""
        self.doing, self.rows, self.limited = doing, rows, limited
        self.place += 1


PULSE = Pulse()
"""Of this process."""
