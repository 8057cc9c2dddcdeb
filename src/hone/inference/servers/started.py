"""StartedServer: a server's process on a free port of this machine, its words told as they come, until it answers.

Does not know which server it is.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence

from hone import log
from hone.errors import ModelError
from hone.post import Unanswered, get

_PAUSE = 0.3
"""Seconds between two looks at whether it answers."""
_LAST_WORDS = 15
"""Lines that an error repeats."""


class StartedServer:
    """`StartedServer("vllm", command, environment, url).wait()`; it ends with this process, or by `close`.

    name: before each of its lines; environment: variables beside this process's own. wait raises ModelError where it ends
    before it answers; a large model may take as long as it needs.
    """

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], url: str):
        self._name, self._url = name, url
        log.info(f"starting {name}: {' '.join(command)}")
        self._guard = subprocess.Popen(
            [sys.executable, "-m", "hone.inference.servers.guard", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,  # Ctrl-C in a terminal stops an answer, not the server
        )
        self._last: deque[str] = deque(maxlen=_LAST_WORDS)
        self._teller = threading.Thread(target=self._tell, name=name, daemon=True)
        self._teller.start()

    def wait(self) -> None:
        """Until it answers. Raises: ModelError."""
        while True:
            if (status := self._guard.poll()) is not None:
                self._teller.join(timeout=5)
                raise ModelError("\n".join((f"{self._name} ended with status {status} before it answered", *self._last)))
            try:
                get(f"{self._url}/health", seconds=5)
                return
            except Unanswered:
                time.sleep(_PAUSE)

    def close(self) -> None:
        """End it, and wait until it has."""
        self._guard.stdin.close()
        self._guard.wait()
        self._teller.join(timeout=5)

    def _tell(self) -> None:
        for line in self._guard.stdout:
            words = line.decode(errors="replace").rstrip()
            self._last.append(words)
            log.info(f"{self._name}: {words}")


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens at."""
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return place.getsockname()[1]
