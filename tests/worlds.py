"""`hone train` in processes of its own: forked from one that has imported everything, or started as users start it.

Does not know what is trained.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch

from hone.training.launch import leave
from tests.runs import write_run

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    ["hone.cli", "hone.training.session", "transformers.models.llama.modeling_llama", "peft", "accelerate", "datasets"]
)
_LONGEST = 240
"""Seconds that a run may take, far more than any takes here."""


def free_port() -> int:
    """A port nobody listens on: another suite on this machine must not be taken for a process of this run."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def launched(world: int) -> dict[str, str]:
    """The variables with which `hone train` starts `world` processes by itself."""
    return {**os.environ, "FORCE_TORCHRUN": "1", "NPROC_PER_NODE": str(world), "MASTER_PORT": str(free_port())}


def command(file: Path, world: int) -> subprocess.CompletedProcess[str]:
    """`hone train FILE` as a user starts it on `world` processes; what it said and its exit code."""
    environment = launched(world) if world > 1 else dict(os.environ)
    words = [sys.executable, "-m", "hone", "train", str(file)]
    return subprocess.run(words, capture_output=True, text=True, timeout=_LONGEST, env=environment, check=False)


def train(file: Path, world: int) -> str:
    """Train what `file` says on `world` processes (gloo); what they said."""
    return fork(world, _train, str(file), beside=file)


def on_two(settings: dict[str, Any], folder: Path) -> Path:
    """Train `settings` into `folder` on two processes; the folder."""
    train(write_run({**settings, "output_dir": str(folder)}, folder.with_suffix(".yaml")), 2)
    return folder


def under_ddp(job: Callable[[], object], beside: Path) -> None:
    """Run `job` in a process of its own that is a group of one (gloo).

    Not in the test's process: torch 2.13 can wait for ever, holding Python's lock, when a module under DDP is taken apart.
    """
    fork(1, _grouped, job, beside=beside)


def fork(world: int, job: Callable[..., object], *arguments: Any, beside: Path) -> str:
    """Run `job` in `world` processes, as torchrun would have started them, with a log each beside a file; what they said.

    The imports, most of a small run's time, were done once, in the process that these are forked from.
    """
    port, logs = free_port(), [beside.with_suffix(f".rank{rank}.log") for rank in range(world)]
    processes = []
    for rank, log_file in enumerate(logs):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
        place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        variables = {name: str(value) for name, value in place.items()} if world > 1 else {}
        processes.append(_FORKS.Process(target=_run, args=(job, arguments, str(log_file), variables)))
    for process in processes:
        process.start()
    for process in processes:
        process.join(_LONGEST)
        process.kill()
    said = "".join(log_file.read_text() for log_file in logs)
    assert [process.exitcode for process in processes] == [0] * world, said
    return said


def _run(job: Callable[..., object], arguments: tuple[Any, ...], log_file: str, variables: dict[str, str]) -> None:
    os.environ.update(variables)
    with open(log_file, "w") as opened:
        os.dup2(opened.fileno(), 1)
        os.dup2(opened.fileno(), 2)
    sys.exit(job(*arguments))


def _grouped(job: Callable[[], object]) -> NoReturn:
    torch.distributed.init_process_group("gloo", rank=0, world_size=1, store=torch.distributed.HashStore())
    code = 1
    try:
        job()
        code = 0
    except BaseException:
        traceback.print_exc()
    leave(code)


def _train(file: str) -> int:
    from hone import cli

    return cli.main(["train", file])
