"""Rank-aware lines for people, on standard error, so that standard output stays clean for machines.

Does not know what is logged, nor torch: the rank is torchrun's own environment variable.
"""

from __future__ import annotations

import logging
import os
import sys

_said: set[str] = set()

# bitsandbytes 0.50 says at every import on a CPU that an optional kernel package is missing, also where nothing is quantized.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
# It also says at every product of 8-bit weights that the input is cast, which is how they work: hundreds of lines an answer.
logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)


def rank() -> int:
    """This process's number among all of the run; 0 outside torchrun."""
    return int(os.environ.get("RANK", "0"))


def info(message: str) -> None:
    """Print `message` on rank 0."""
    if rank() == 0:
        print(message, file=sys.stderr, flush=True)


def warn(message: str) -> None:
    """Print `message` on every rank, with the rank where there are several."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    prefix = f"[rank {rank()}] " if world > 1 else ""
    print(f"{prefix}warning: {message}", file=sys.stderr, flush=True)


def failure(message: str) -> None:
    """Print an error, with the rank where it is not the first process that met it."""
    print(f"[rank {rank()}] {message}" if rank() else message, file=sys.stderr, flush=True)


def once(message: str) -> None:
    """Print `message` on rank 0 the first time it is said in this process."""
    if message not in _said:
        _said.add(message)
        info(message)
