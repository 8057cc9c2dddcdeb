"""Guard: runs a command, and ends it with all that it started once nobody holds this process's standard input any more.

Does not know what runs. So a server that holds an accelerator's memory never outlives hone, however hone ended: `kill -9` too.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

_SECONDS = 20.0
"""How long the command may take to end by itself."""


def main(command: list[str]) -> int:
    """The command's exit status, after it has ended or was ended."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    threading.Thread(target=_end_with_input, args=(child,), daemon=True).start()
    try:
        return child.wait()
    finally:
        _signal(child, signal.SIGKILL)  # what it started may have stayed


def _end_with_input(child: subprocess.Popen) -> None:
    while os.read(0, 1):  # sys.stdin would be held when this process ends before it
        pass
    _signal(child, signal.SIGTERM)
    try:
        child.wait(_SECONDS)
    except subprocess.TimeoutExpired:
        _signal(child, signal.SIGKILL)


def _signal(child: subprocess.Popen, number: int) -> None:
    with suppress(ProcessLookupError):  # its session has ended
        os.killpg(child.pid, number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
