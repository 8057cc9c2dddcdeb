"""Launch: whether a command must run as several processes, and starting them under torchrun.

Does not know what the processes will do.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping

import torch

from hone import log

_TRUTHY = ("1", "true", "y")


def wants_launch(environment: Mapping[str, str], *, use_cpu: bool) -> bool:
    """True outside torchrun where FORCE_TORCHRUN is set or this machine has more than one accelerator."""
    if "RANK" in environment and "WORLD_SIZE" in environment:
        return False
    forced = environment.get("FORCE_TORCHRUN", "").lower() in _TRUTHY
    return forced or (not use_cpu and torch.accelerator.device_count() > 1)


def torchrun_command(environment: Mapping[str, str], arguments: list[str]) -> list[str]:
    """The command that runs `hone <arguments>` once a device, with LLaMA-Factory's variables.

    MASTER_PORT has a fixed default: a random one would differ between the machines of one run.
    """
    read = environment.get
    count = read("NPROC_PER_NODE", str(max(1, torch.accelerator.device_count())))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", count]
    if rendezvous := read("RDZV_ID", ""):
        nodes = f"{read('MIN_NNODES')}:{read('MAX_NNODES')}" if read("MIN_NNODES") and read("MAX_NNODES") else read("NNODES", "1")
        endpoint = f"{read('MASTER_ADDR', '127.0.0.1')}:{read('MASTER_PORT', '29500')}"
        command += ["--nnodes", nodes, "--rdzv_id", rendezvous, "--rdzv_backend", "c10d", "--rdzv_endpoint", endpoint]
        command += ["--max_restarts", read("MAX_RESTARTS", "0")]
    else:
        command += ["--nnodes", read("NNODES", "1"), "--node_rank", read("NODE_RANK", "0")]
        command += ["--master_addr", read("MASTER_ADDR", "127.0.0.1"), "--master_port", read("MASTER_PORT", "29500")]
    return [*command, "-m", "hone", *arguments]


def launch(arguments: list[str]) -> int:
    """Run `hone <arguments>` under torchrun; returns its exit code. Arguments with spaces stay whole."""
    command = torchrun_command(os.environ, arguments)
    log.info(f"starting {command[4]} processes: {' '.join(command[1:])}")
    return subprocess.run(command, check=False).returncode
