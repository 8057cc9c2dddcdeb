"""`hone train` in processes of its own: forked from one that has imported everything, or started as users start it.

Does not know what is trained.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch

from hone.inference.servers.started import free_port
from hone.training.processes.launch import leave
from tests.hosts import Host
from tests.runs import write_run

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    ["hone.cli", "hone.training.prepare", "transformers.models.llama.modeling_llama", "peft", "accelerate", "datasets"]
)
_LONGEST = 400
"""Seconds that a run may take, far more than any takes here."""


def launched(world: int) -> dict[str, str]:
    """The variables with which `hone train` starts `world` processes by itself."""
    return {**os.environ, "FORCE_TORCHRUN": "1", "NPROC_PER_NODE": str(world), "MASTER_PORT": str(free_port())}


def command(file: Path, world: int, **variables: str) -> subprocess.CompletedProcess[str]:
    """`hone train FILE` as a user starts it on `world` processes; what it said and its exit code."""
    environment = (launched(world) if world > 1 else dict(os.environ)) | variables
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
    port, ranks = free_port(), []
    for rank in range(world):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
        place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        variables = {name: str(value) for name, value in place.items()} if world > 1 else {}
        ranks.append(start(job, *arguments, variables=variables, log_file=beside.with_suffix(f".rank{rank}.log")))
    codes = [rank.end() for rank in ranks]
    said = "".join(rank.said for rank in ranks)
    assert codes == [0] * world, said
    return said


@dataclass
class Process:
    """A process that was started, and where it speaks."""

    running: Any
    log_file: Path

    @property
    def said(self) -> str:
        """What it has said so far."""
        return self.log_file.read_text() if self.log_file.exists() else ""

    def end(self, seconds: float = _LONGEST) -> int | None:
        """Wait for it, and kill it where it does not end in time; its exit code."""
        self.running.join(seconds)
        self.running.kill()
        self.running.join()
        return self.running.exitcode


def start(
    job: Callable[..., object], *arguments: Any, variables: dict[str, str], log_file: Path, host: Host | None = None
) -> Process:
    """Start `job` in a process with these variables, in a host of its own where one is given."""
    process = _FORKS.Process(target=_run, args=(job, arguments, str(log_file), variables, host))
    process.start()
    return Process(process, log_file)


def start_training(words: list[str], **place: Any) -> Process:
    """Start `hone train` with `words`; place: as for `start`."""
    return start(_command, ["train", *words], **place)


def _run(
    job: Callable[..., object], arguments: tuple[Any, ...], log_file: str, variables: dict[str, str], host: Host | None
) -> None:
    if host:
        host.enter()
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
    return _command(["train", file])


def _command(words: list[str]) -> int:
    from hone import cli

    return cli.main(words)
