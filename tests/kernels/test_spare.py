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


@pytest.mark.parametrize(
    ("told", "at"),
    [
        ("0::/slurm/job_7/step_0\n", "slurm/job_7"),
        ("5:cpu:/x\n4:memory:/slurm/uid_1/job_7\n0::/\n", "memory/slurm/uid_1/job_7"),
        ("4:memory:/docker/0a1b\n0::/\n", "memory"),
    ],
    ids=["a job's, a step of which this is", "version 1", "a container that does not see the path it is told"],
)
def test_the_limit_of_a_group_that_this_process_lies_in_counts(tmp_path: Path, told: str, at: str) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text(f"MemAvailable:   {64 * GIB // 1024} kB\n")
    (tmp_path / "proc/self/cgroup").write_text(told)
    group = tmp_path / "sys/fs/cgroup" / at
    group.mkdir(parents=True)
    for name, text in (V1 if at.startswith("memory") else V2).items():
        (group / name.rpartition("/")[2]).write_text(text)
    assert available_bytes(torch.device("cpu"), tmp_path) == (3 if at.startswith("memory") else 6) * GIB


def test_a_system_that_does_not_say(tmp_path: Path) -> None:
    assert available_bytes(torch.device("cpu"), tmp_path) is None
    assert available_bytes(torch.device("cpu")) > 0
