"""Free memory as a container sees it: its own limit, not the machine's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hone.kernels.spare import available_bytes

GIB = 2**30
V2 = {"memory.max": f"{8 * GIB}", "memory.current": f"{3 * GIB}", "memory.stat": f"anon 5\ninactive_file {GIB}\n"}
V1 = {
    "memory/memory.limit_in_bytes": f"{4 * GIB}",
    "memory/memory.usage_in_bytes": f"{GIB}",
    "memory/memory.stat": "total_inactive_file 0\n",
}


@pytest.mark.parametrize(
    ("files", "free"),
    [({}, 64 * GIB), ({"memory.max": "max"}, 64 * GIB), (V2, 6 * GIB), (V1, 3 * GIB), (V2 | {"memory.max": "1"}, 0)],
)
def test_a_container_s_limit_counts(tmp_path: Path, files: dict[str, str], free: int) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable:   {64 * GIB // 1024} kB\n")
    for name, text in files.items():
        file = tmp_path / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    assert available_bytes(torch.device("cpu"), tmp_path) == free


def test_a_system_that_does_not_say(tmp_path: Path) -> None:
    assert available_bytes(torch.device("cpu"), tmp_path) is None
    assert available_bytes(torch.device("cpu")) > 0
