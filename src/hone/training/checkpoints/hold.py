"""Hold: one run at a time writes into an output folder.

Does not know what is written. The lock is the system's: it ends with its process, however that ends.
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

from hone import log
from hone.errors import CheckpointError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = ".hone.lock"
_ENDING_SECONDS = 10.0
"""An earlier start of the run, whose launcher was killed, may still be saving."""
_held: dict[Path, int] = {}
"""Open files of this process: closing any other one of the same file would let go of its lock."""


def hold(folder: Path) -> None:
    """Keep `folder` for this process until `let_go`, or its end; CheckpointError where a run of another process has it."""
    path = folder.resolve() / LOCK
    if fcntl is None or (path in _held and os.fstat(_held[path]).st_nlink):
        return
    file, end = os.open(path, os.O_RDWR | os.O_CREAT, 0o666), time.monotonic() + _ENDING_SECONDS
    try:
        while not _locked(file):
            holder = os.pread(file, 200, 0).decode(errors="replace").strip()
            if time.monotonic() > end:
                os.close(file)
                raise CheckpointError(
                    f"output_dir: another run writes into {folder} ({holder}); wait for its end, or name another folder"
                )
            log.once(f"another run writes into {folder} ({holder}); waiting {_ENDING_SECONDS:.0f} s for its end")
            time.sleep(0.2)
    except OSError as problem:
        os.close(file)
        log.once(f"note: {folder} cannot be locked ({problem.strerror}): see that no other run writes there")
        return
    os.ftruncate(file, 0)
    os.pwrite(file, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    _held[path] = file


def _locked(file: int) -> bool:
    """Take the lock of an open file; False where another process has it, OSError where the folder has no locks."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def let_go() -> None:
    """Other processes may write into the folders that this one held."""
    for file in _held.values():
        os.close(file)
    _held.clear()
