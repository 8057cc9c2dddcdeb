"""Store: the TCP store of a meeting, opened by its first member and found by the others.

Does not know who meets nor what is laid into it.
"""

from __future__ import annotations

import time
from datetime import timedelta

from torch.distributed import DistError, TCPStore

from hone.errors import TrainingError
from hone.training.processes.address import require_reachable, taken

_POLL_SECONDS, _STORE_SECONDS = 0.05, 20
_PLACE = "hone/meeting"
_served: list[TCPStore] = []
"""Stores end with their last object: torch asks the run's again for each group of processes, long after the meeting."""


def open_store(address: str, port: int, *, leads: bool, agent: bool, mine: str, seconds: float) -> TCPStore:
    """The store at address:port, served by the member that leads and found by the others within `seconds`.

    agent: torchrun's stands there, in which the leader writes where its own is, at `mine`. Raises TrainingError.
    """
    if agent:
        require_reachable(address, port, seconds, "torchrun")
        place = _client(address, port)
        if not leads:
            return _found(place, seconds)
        store = _serve(mine, 0)
        place.set(_PLACE, f"{mine} {store.port}")
        return store
    if leads:
        return _serve(address, port)
    require_reachable(address, port, seconds, "the first process (rank 0, or machine 0)")
    return _client(address, port)


def _found(place: TCPStore, seconds: float) -> TCPStore:
    """The first member's store, read again and again: what stands there may be that of an earlier start, which has ended."""
    end, problem = time.monotonic() + seconds, TrainingError(f"rank 0 did not come within {seconds:.0f} s: see what it said")
    while time.monotonic() < end:
        if place.check([_PLACE]):
            address, port = place.get(_PLACE).decode().split()
            try:
                require_reachable(address, int(port), 0, "rank 0")
                return _client(address, int(port))
            except TrainingError as found:
                problem = found
        time.sleep(_POLL_SECONDS)
    raise problem


def _client(address: str, port: int) -> TCPStore:
    return TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=_STORE_SECONDS))


def _serve(address: str, port: int) -> TCPStore:
    """A store of this process. multi_tenant: torch's own, asked for at the same port by this process later, is this one."""
    wait = timedelta(seconds=_STORE_SECONDS)
    try:
        _served.append(TCPStore(address, port, is_master=True, wait_for_workers=False, timeout=wait, multi_tenant=True))
        return _served[-1]
    except DistError as problem:
        if "EADDRINUSE" not in str(problem):
            raise TrainingError(f"no store can be opened at {address}:{port}: {problem}") from problem
        raise TrainingError(taken(port)) from problem
