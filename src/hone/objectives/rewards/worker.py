"""The process in which a user's reward function runs: `python -m hone.objectives.rewards.worker PLACE`.

Does not know training. It has a process of its own because only a process can be stopped for certain: a signal does not reach
a function that waits in C or swallows exceptions. Requests and replies are lines of JSON on standard input and output; whatever
the function prints goes to standard error.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

FRAMES = 3
"""Of a function's traceback, how many are told."""


def load_function(place: str) -> Callable[..., Any]:
    """The function at "package.module:function" or "path/to/file.py:function"; the folder it is run in can be imported from.

    Raises: whatever importing the module raises; AttributeError or TypeError where it has no such function.
    """
    source, _, name = place.rpartition(":")
    if source.endswith(".py"):
        path = Path(source).expanduser().resolve()
        sys.path.insert(0, str(path.parent))
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None, "a .py file has a loader"
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(source)
    function = getattr(module, name)
    if not callable(function):
        raise TypeError(f"{name} is a {type(function).__name__}, not a function")
    return function


def plain(value: Any) -> Any:
    """A returned value as JSON can hold it: numbers of numpy and torch become Python's, their arrays lists."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value if value is None or isinstance(value, bool | int | float) else f"{type(value).__name__} {value!r}"[:80]


def reply_to(work: Callable[[], Any]) -> str:
    """One line: {"value": ...}, or {"error": ...} with the end of the traceback."""
    try:
        return json.dumps({"value": plain(work())})
    except BaseException as fault:  # sys.exit() in a reward function is its fault too
        theirs = [one for one in traceback.extract_tb(fault.__traceback__) if one.filename != __file__][-FRAMES:]
        frames = [f"{Path(one.filename).name}:{one.lineno}" for one in theirs]
        return json.dumps({"error": f"{type(fault).__name__}: {fault}", "at": " > ".join(frames) or "its call"})


def main(place: str) -> None:
    """Load the function, say whether it is there, then answer requests until the input ends."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    found: list[Callable[..., Any]] = []
    print(reply_to(lambda: found.append(load_function(place))), file=replies)
    requests: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    while found:
        print(reply_to(partial(found[0], **json.loads(requests.get()))), file=replies)


def _listen(requests: queue.SimpleQueue[str]) -> None:
    """Pass requests on; when the trainer is gone, be gone too, also in the middle of a function that never returns."""
    source = os.fdopen(os.dup(0), encoding="utf-8")
    for line in source:
        requests.put(line)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
