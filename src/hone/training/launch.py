"""Launch: whether a command must run as several processes, and starting them under torchrun.

Does not know what the processes will do, nor how the environment is read.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

import torch

from hone import log
from hone.config.environment import Environment

DEFAULT_PORT = 29500
"""Fixed: a random one would differ between the machines of one run."""

_TUNED = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True", "TORCH_NCCL_AVOID_RECORD_STREAMS": "1"}
"""What OPTIM_TORCH gives the processes, where the user has not said otherwise."""


def wants_launch(environment: Environment, *, use_cpu: bool) -> bool:
    """True outside torchrun where FORCE_TORCHRUN is set or this machine has more than one accelerator."""
    if environment.launched:
        return False
    return environment.force_torchrun or (not use_cpu and torch.accelerator.device_count() > 1)


def count_world(environment: Environment, *, use_cpu: bool) -> int:
    """Processes that `hone train` would have here."""
    if not wants_launch(environment, use_cpu=use_cpu):
        return 1
    return _processes_here(environment) * (environment.max_nodes or environment.num_nodes)


def torchrun_command(environment: Environment, arguments: list[str]) -> list[str]:
    """The command that runs `hone <arguments>` once a device, with LLaMA-Factory's variables."""
    port = environment.master_port or DEFAULT_PORT
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(_processes_here(environment))]
    if environment.rendezvous_id:
        elastic = environment.min_nodes and environment.max_nodes
        nodes = f"{environment.min_nodes}:{environment.max_nodes}" if elastic else str(environment.num_nodes)
        command += ["--nnodes", nodes, "--rdzv_id", environment.rendezvous_id, "--rdzv_backend", "c10d"]
        command += ["--rdzv_endpoint", f"{environment.master_addr}:{port}", "--max_restarts", str(environment.max_restarts)]
    else:
        command += ["--nnodes", str(environment.num_nodes), "--node_rank", str(environment.node_rank)]
        command += ["--master_addr", environment.master_addr, "--master_port", str(port)]
    return [*command, "-m", "hone", *arguments]


def child_variables(environment: Environment, variables: Mapping[str, str]) -> dict[str, str]:
    """The variables of the processes: the user's own, after OPTIM_TORCH's."""
    return {**(_TUNED if environment.tune_torch else {}), **variables}


def launch(environment: Environment, arguments: list[str]) -> int:
    """Run `hone <arguments>` under torchrun; returns its exit code. Arguments with spaces stay whole.

    SIGTERM and Ctrl-C are handed on and waited for: the processes save a checkpoint and end. The code is then 128 + the signal.
    """
    command = torchrun_command(environment, arguments)
    log.info(f"starting {command[4]} processes: {' '.join(command[1:])}")
    # A session of its own, so that Ctrl-C in a terminal reaches the processes through us alone and not twice.
    child = subprocess.Popen(command, env=child_variables(environment, os.environ), start_new_session=True)
    got: list[int] = []

    def hand_on(number: int, _: FrameType | None) -> None:
        got.append(number)
        # torchrun kills its processes 30 seconds after a signal of its own, which a long step and a save may exceed: so the
        # first one goes to the processes themselves, and only a second one, which is to end them now, to torchrun.
        for process in (len(got) == 1 and _children(child.pid)) or [child.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGTERM)

    before = {number: signal.signal(number, hand_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        code = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 128 + got[0] if got else code


def _children(process: int) -> list[int]:
    """The processes that `process` started, where the system tells (Linux); none elsewhere."""
    path = Path(f"/proc/{process}/task/{process}/children")
    return [int(word) for word in path.read_text().split()] if path.is_file() else []


def _processes_here(environment: Environment) -> int:
    return environment.num_processes_per_node or max(1, torch.accelerator.device_count())
