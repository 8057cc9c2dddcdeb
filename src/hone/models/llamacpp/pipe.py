"""Orders and answers between hone and llama.cpp's process: a line of JSON, with the numbers it names behind it as bytes.

Does not know what is ordered.
"""

from __future__ import annotations

import json
from typing import Any, BinaryIO

import numpy as np


def send(pipe: BinaryIO, head: dict[str, Any], *arrays: np.ndarray) -> None:
    """One order or answer; the arrays' names, shapes and number formats are in its head."""
    head = head | {"arrays": [[str(one.dtype), list(one.shape)] for one in arrays]}
    pipe.write(json.dumps(head).encode() + b"\n")
    for one in arrays:
        pipe.write(np.ascontiguousarray(one).tobytes())
    pipe.flush()


def receive(pipe: BinaryIO) -> dict[str, Any] | None:
    """What `send` has sent, its arrays under "arrays"; None where the other side has gone."""
    line = pipe.readline()
    if not line.endswith(b"\n"):
        return None
    head = json.loads(line)
    arrays = []
    for dtype, shape in head.pop("arrays"):
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        data = pipe.read(size)
        if len(data) != size:
            return None
        arrays.append(np.frombuffer(data, dtype=dtype).reshape(shape))
    return head | ({"arrays": arrays} if arrays else {})
