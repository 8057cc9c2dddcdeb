"""Voice: an error that every process of a run meets is told once, and one that a single process meets is told by it.

Does not know what went wrong.
"""

from __future__ import annotations

import hashlib
import os
import time
from datetime import timedelta

from torch.distributed import DistStoreError, TCPStore

from hone import log
from hone.training.processes.meeting import JointError

_PATIENCE_SECONDS = 1.0
"""How long another process waits for the first one to say the same."""


def has_the_word(error: Exception) -> bool:
    """Whether this process tells `error`: rank 0 where it comes to it in time, else whoever comes first; each message once.

    Processes agree through torchrun's own store, which stands before they have joined. Without one, each tells its own. What
    the preflight told all of them is told once a machine, without asking: the store that told it may have gone.
    """
    if isinstance(error, JointError):
        return os.environ.get("LOCAL_RANK", "0") == "0"
    message, store = str(error), _store()
    if store is None:
        return True
    key = f"hone/told/{hashlib.sha256(message.encode()).hexdigest()}"
    if log.rank():
        end = time.monotonic() + _PATIENCE_SECONDS
        while not store.check([key]) and time.monotonic() < end:
            time.sleep(0.05)
    return store.add(key, 1) == 1


_torchruns: list[tuple[str, int]] = []


def keep_torchruns_store() -> None:
    """Go on asking torchrun's store, which outlives every process, when MASTER_ADDR and MASTER_PORT become another one's."""
    _torchruns[:] = [(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))]


def _store() -> TCPStore | None:
    """torchrun's store; None where it holds none for its processes, or has gone."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    address, port = _torchruns[0] if _torchruns else (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
    try:
        return TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=5))
    except DistStoreError:
        return None
