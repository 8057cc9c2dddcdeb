"""How much memory is free: of the device, of the machine, and what a container is given of it.

Does not know what will be loaded.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch

_SYSTEM = Path("/")
_CONTAINERS = (
    ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory.current", "sys/fs/cgroup/memory.stat", "inactive_file"),
    (
        *("sys/fs/cgroup/memory/memory.limit_in_bytes", "sys/fs/cgroup/memory/memory.usage_in_bytes"),
        *("sys/fs/cgroup/memory/memory.stat", "total_inactive_file"),
    ),
)
"""Of Linux's control groups, version 2 and 1: the limit, what is in use, and which of it are files' pages that can be dropped."""


def available_bytes(device: torch.device, system: Path = _SYSTEM) -> int | None:
    """Free memory of the device; None where the system does not say. system: under which /proc and /sys lie."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    said = system / "proc/meminfo"
    if device.type != "cpu" or not said.is_file():
        return None
    free = [1024 * _number(said, "MemAvailable:")]
    free += [room for files in _CONTAINERS if (room := _of_container(system, *files)) is not None]
    return max(0, min(free))


def _of_container(system: Path, limit: str, used: str, stat: str, droppable: str) -> int | None:
    said = (system / limit).read_text().strip() if (system / limit).is_file() else "max"
    if said == "max":
        return None
    return int(said) - int((system / used).read_text()) + _number(system / stat, droppable)


def _number(file: Path, word: str) -> int:
    """The number behind `word` in a file of the system; 0 where it is not there."""
    found = re.search(rf"^{word}\s+(\d+)", file.read_text(), re.MULTILINE)
    return int(found[1]) if found else 0
