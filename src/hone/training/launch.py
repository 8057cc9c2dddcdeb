"""Launch: whether a command must run as several processes, and starting them under torchrun.

Does not know what the processes will do, nor how the environment is read.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import NoReturn

import torch
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run

from hone import log
from hone.config.environment import Environment
from hone.training.signals import SIGNALS, StopRequest

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


def torchrun_words(environment: Environment, arguments: list[str]) -> list[str]:
    """What torchrun is told to run `hone <arguments>` once a device, with LLaMA-Factory's variables."""
    port = environment.master_port or DEFAULT_PORT
    # SIGTERM and SIGINT are ours, see `launch`.
    words = ["--nproc_per_node", str(_processes_here(environment)), "--signals_to_handle", "SIGHUP,SIGQUIT"]
    if environment.rendezvous_id:
        elastic = environment.min_nodes and environment.max_nodes
        nodes = f"{environment.min_nodes}:{environment.max_nodes}" if elastic else str(environment.num_nodes)
        words += ["--nnodes", nodes, "--rdzv_id", environment.rendezvous_id, "--rdzv_backend", "c10d"]
        words += ["--rdzv_endpoint", f"{environment.master_addr}:{port}", "--max_restarts", str(environment.max_restarts)]
    else:
        words += ["--nnodes", str(environment.num_nodes), "--node_rank", str(environment.node_rank)]
        words += ["--master_addr", environment.master_addr, "--master_port", str(port)]
    return [*words, "-m", "hone", *arguments]


def child_variables(environment: Environment, variables: Mapping[str, str]) -> dict[str, str]:
    """The variables of the processes: the user's own, after OPTIM_TORCH's."""
    return {**(_TUNED if environment.tune_torch else {}), **variables}


def launch(environment: Environment, arguments: list[str]) -> int:
    """Run `hone <arguments>` once a device, torchrun being this process; returns the exit code. Arguments stay whole.

    The first SIGTERM or Ctrl-C is handed on and waited for, however long the step and the save take: the processes save a
    checkpoint and end. A second one ends them now. The code is then 128 + the signal; else that of the process that failed first.
    """
    words = torchrun_words(environment, arguments)
    log.info(f"starting {words[1]} processes: torchrun {' '.join(words)}")
    os.environ.update(child_variables(environment, os.environ))
    _quiet_torchrun()
    before = {number: signal.signal(number, _end_now) for number in SIGNALS}
    try:
        with StopRequest(_hand_on) as request:
            run(parse_args(words))
    except SignalException as stopped:
        return 128 + stopped.sigval
    except ChildFailedError as failed:
        return 128 + request.signal if request.signal else _code_of(failed)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 128 + request.signal if request.signal and environment.max_restarts else 0  # see train_run: stopped ones end well


def _hand_on(_: int) -> None:
    """Ask the processes to stop. torchrun would kill them 30 seconds later, which a long step and a save may exceed."""
    for process in _children(os.getpid()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGTERM)


def _end_now(number: int, _: FrameType | None) -> None:
    """What torchrun does at a signal: end the processes, kill those that stay."""
    raise SignalException("asked twice to stop", signal.Signals(number))


def _quiet_torchrun() -> None:
    """torchrun warns of each process that it ends and reports a failure in twenty lines; who failed has told why."""
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)


def _code_of(failed: ChildFailedError) -> int:
    """The exit code of the process that failed first; one that a signal ended could tell nothing, so it is told here."""
    rank, failure = failed.get_first_failure()
    if failure.exitcode >= 0:
        return failure.exitcode
    log.info(f"process {rank} was ended by {signal.Signals(-failure.exitcode).name}; the others were ended too")
    return 128 - failure.exitcode


def _children(process: int) -> list[int]:
    """The processes that `process` started, where the system tells (Linux); none elsewhere."""
    path = Path(f"/proc/{process}/task/{process}/children")
    return [int(word) for word in path.read_text().split()] if path.is_file() else []


def _processes_here(environment: Environment) -> int:
    return environment.num_processes_per_node or max(1, torch.accelerator.device_count())


def leave(code: int) -> NoReturn:
    """End a process that torchrun started, at once: its files are written, its trackers and its process group closed.

    Taking a module under DDP apart can wait for ever (seen with torch 2.13 and gloo: one process of two, its run over).
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
