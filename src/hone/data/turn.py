"""Turn: of several processes one makes a thing, and the others wait, as long as it takes and as long as that one lives.

Does not know what is made. No process waits in a collective. A process that ends gives its lock back at once; one that hangs,
or whose machine has gone while a network folder keeps its lock, is known by its heart: a file that it writes anew.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from hone import log
from hone.ages import Ages

_BEAT_SECONDS, _LOOK_SECONDS = 5.0, 1.0
_SILENT_SECONDS = 120.0
"""Far more than a beat: network folders show others' files late."""


@contextlib.contextmanager
def turn(name: Path, what: str) -> Iterator[bool]:
    """Within, this process makes `name`: alone, where True. what: it is told that another process "`what`".

    Where locks do not work, or whoever holds one gives no sign of life, several may make it at once: each makes it whole and
    apart, and the last one's stays.
    """
    heart = name.with_name(f".{name.name}.heart")
    with contextlib.ExitStack() as held:
        lock = FileLock(name.with_name(f".{name.name}.lock"))
        alone = _wait(lock, heart, what)
        if alone:
            held.callback(lock.release)
        held.enter_context(_beating(heart))
        yield alone


def _wait(lock: FileLock, heart: Path, what: str) -> bool:
    """Whether the lock was had; False where it cannot be, and nobody who lives makes the thing."""
    seen, ages, started = _read(heart), Ages(), time.monotonic()
    while True:
        try:
            lock.acquire(timeout=_LOOK_SECONDS)
            return True
        except Timeout:
            pass
        except (OSError, NotImplementedError):  # the folder has no locks: the heart alone tells
            if not seen:
                return False
            time.sleep(_LOOK_SECONDS)
        seen = _read(heart)
        if ages.of(heart, seen) > _SILENT_SECONDS:
            who = seen.partition(" beat")[0] or "the process that holds its lock"
            log.warn(f"{who} gave no sign of life for {_SILENT_SECONDS:.0f} s while it {what}; this process does it itself")
            return False
        if time.monotonic() - started > _BEAT_SECONDS:
            log.once(f"another process {what}; waiting for it")


def _read(heart: Path) -> str:
    try:
        return heart.read_text(encoding="utf-8")  # opened anew: a network folder then asks its server
    except OSError:
        return ""


@contextlib.contextmanager
def _beating(heart: Path) -> Iterator[None]:
    """Within, a thread writes the heart anew every few seconds."""
    ended, mine = threading.Event(), f"process {os.getpid()} on {socket.gethostname()}"
    aside = heart.with_name(f"{heart.name}.{socket.gethostname()}.{os.getpid()}")  # whole or not there, whoever reads

    def beat() -> None:
        number = 0
        while True:
            with contextlib.suppress(OSError):  # a full disk is told by what is made
                aside.write_text(f"{mine} beat {number}", encoding="utf-8")
                aside.replace(heart)
            number += 1
            if ended.wait(_BEAT_SECONDS):
                return

    thread = threading.Thread(target=beat, name="turn", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with contextlib.suppress(OSError):
            heart.unlink(missing_ok=True)
