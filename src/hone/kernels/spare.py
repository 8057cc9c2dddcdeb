"""How much memory is free: of the device, of the machine, and what a container is given of it.

Does not know what will be loaded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import torch

_SYSTEM = Path("/")
_CONTROL = Path("sys/fs/cgroup")
_VERSIONS = {
    "": (_CONTROL, "memory.max", "memory.current", "inactive_file"),
    "memory": (_CONTROL / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""Of Linux's control groups, version 2 and 1, by the controllers as /proc names them: where they lie, the limit, what is in use,
and which of it are files' pages that can be dropped."""


def available_bytes(device: torch.device, system: Path = _SYSTEM) -> int | None:
    """Free memory of the device; None where the system does not say. system: under which /proc and /sys lie."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    said = system / "proc/meminfo"
    if device.type != "cpu" or not said.is_file():
        return None
    free = [1024 * _number(said, "MemAvailable:")]
    free += [room for group in _groups(system) if (room := _of_group(*group)) is not None]
    return max(0, min(free))


def _groups(system: Path) -> Iterator[tuple[Path, str, str, str]]:
    """The group of this process and all it lies in, each of which may have a limit: a container's, a SLURM job's, a service's.

    A container may see its own group alone, as the outermost, and be told a path that it does not see.
    """
    told = system / "proc/self/cgroup"
    mine = dict(line.split(":", 2)[1:] for line in told.read_text().splitlines()) if told.is_file() else {}
    for controllers, (root, *words) in _VERSIONS.items():
        path = PurePosixPath(mine.get(controllers, "/")).relative_to("/")
        yield from ((system / root / one, *words) for one in (path, *path.parents))


def _of_group(group: Path, limit: str, used: str, droppable: str) -> int | None:
    said = (group / limit).read_text().strip() if (group / limit).is_file() else "max"
    if said == "max":
        return None
    return int(said) - int((group / used).read_text()) + _number(group / "memory.stat", droppable)


def _number(file: Path, word: str) -> int:
    """The number behind `word` in a file of the system; 0 where it is not there."""
    found = re.search(rf"^{word}\s+(\d+)", file.read_text(), re.MULTILINE)
    return int(found[1]) if found else 0
