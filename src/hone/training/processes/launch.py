"""Launch: whether a command must run as several processes, and starting them under torchrun, on one machine or many.

Does not know what the processes will do, nor how the environment is read.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NoReturn

import torch
from torch.distributed import DistError
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import RendezvousError
from torch.distributed.run import parse_args, run

import hone
from hone import log
from hone.config.environment import DEFAULT_PORT, Environment
from hone.errors import TrainingError
from hone.training.processes.address import is_here, outward_address, own_address, require_free, require_reachable
from hone.training.processes.differences import differing
from hone.training.processes.meeting import Meeting, Member, meet
from hone.training.processes.signals import ECHO_SECONDS, SIGNALS, StopRequest

_TUNED = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True", "TORCH_NCCL_AVOID_RECORD_STREAMS": "1"}
"""What OPTIM_TORCH gives the processes, where the user has not said otherwise."""


def wants_launch(environment: Environment, *, use_cpu: bool) -> bool:
    """True outside torchrun where it is asked for, or where there are several machines or accelerators."""
    if environment.launched:
        return False
    several = environment.num_nodes > 1 or bool(environment.rendezvous_id)
    return environment.force_torchrun or several or (not use_cpu and torch.accelerator.device_count() > 1)


def count_world(environment: Environment, *, use_cpu: bool) -> int:
    """Processes that `hone train` would have here."""
    if not wants_launch(environment, use_cpu=use_cpu):
        return int(environment.cluster.words.get("WORLD_SIZE", "1")) if environment.launched else 1
    return _processes_here(environment) * (environment.max_nodes or environment.num_nodes)


def torchrun_words(environment: Environment, arguments: list[str], *, join_timeout: int = 60) -> list[str]:
    """What torchrun is told to run `hone <arguments>` once a device, with LLaMA-Factory's variables."""
    address, port = master_of(environment)
    # SIGTERM and SIGINT are ours, see `launch`.
    words = ["--nproc_per_node", str(_processes_here(environment)), "--signals_to_handle", "SIGHUP,SIGQUIT"]
    words += ["--max_restarts", str(environment.max_restarts)]
    if environment.rendezvous_id:
        elastic = environment.min_nodes and environment.max_nodes
        nodes = f"{environment.min_nodes}:{environment.max_nodes}" if elastic else str(environment.num_nodes)
        words += ["--nnodes", nodes, "--rdzv_id", environment.rendezvous_id, "--rdzv_backend", "c10d"]
        # torch guesses from host names who holds the rendezvous, and gives out its own name as its address.
        words += ["--rdzv_endpoint", f"{address}:{port}", "--local_addr", own_address(address)]
        words += ["--rdzv_conf", f"is_host={str(is_here(address)).lower()},join_timeout={join_timeout}"]
    else:
        words += ["--nnodes", str(environment.num_nodes), "--node_rank", str(environment.node_rank)]
        words += ["--master_addr", address, "--master_port", str(port)]
    return [*words, "-m", "hone", *arguments]


def master_of(environment: Environment) -> tuple[str, int]:
    """Where the run's machines meet. A first machine that calls itself localhost gives an address that the others can use."""
    address, port = environment.master_addr, environment.master_port or DEFAULT_PORT
    several = environment.num_nodes > 1 or (environment.max_nodes or 1) > 1
    return (outward_address() if several and address in ("127.0.0.1", "localhost") else address), port


def meet_machines(environment: Environment, seconds: float) -> Meeting | None:
    """See that torchrun's machines can meet before it waits ten minutes for them; the store where they do.

    Raises TrainingError that names the machines that did not come, the port that is taken or the address that is not there.
    """
    address, port = master_of(environment)
    if environment.rendezvous_id:
        require_free(port) if is_here(address) else require_reachable(address, port, seconds, "the machine that is MASTER_ADDR")
        return None
    if environment.num_nodes == 1:
        require_free(port)
        return None
    about = {"hone": hone.__version__, "NNODES": str(environment.num_nodes), "MAX_RESTARTS": str(environment.max_restarts)}
    member = Member("machine", environment.node_rank, environment.num_nodes, about)
    return meet(member, address=address, port=port, seconds=seconds, judge=differing)


def child_variables(environment: Environment, variables: Mapping[str, str]) -> dict[str, str]:
    """The variables of the processes: the user's own, after OPTIM_TORCH's; how many machines there may be, whoever said it."""
    elastic = {"MIN_NNODES": environment.min_nodes, "MAX_NNODES": environment.max_nodes, "RDZV_ID": environment.rendezvous_id}
    told = {name: str(value) for name, value in elastic.items() if value and environment.max_nodes}
    return {**(_TUNED if environment.tune_torch else {}), **variables, **told}


def launch(environment: Environment, arguments: list[str], *, join_timeout: int, smaller: Callable[[], int]) -> int:
    """Run `hone <arguments>` once a device, torchrun being this process; returns the exit code. Arguments stay whole.

    smaller: how many times smaller than planned micro-batches have to be, as the processes note where memory runs out. Where
    they end with a note that says more than before, all is begun again, and goes on from the newest checkpoint.

    The first SIGTERM or Ctrl-C is handed on and waited for, however long the step and the save take: the processes save a
    checkpoint and end. A second one ends them now. The code is then 128 + the signal; else that of the process that failed first.
    """
    words = torchrun_words(environment, arguments, join_timeout=join_timeout)
    log.info(f"starting {words[1]} processes: torchrun {shlex.join(words)}")
    os.environ.update(child_variables(environment, os.environ))
    meeting = meet_machines(environment, join_timeout)
    _quiet_torchrun()
    before, over, noted = {number: signal.signal(number, _end_now) for number in SIGNALS}, threading.Event(), smaller()
    try:
        with StopRequest(partial(_hand_on, over)) as request:
            run(parse_args(words))
    except SignalException as stopped:
        return 128 + stopped.sigval
    except ChildFailedError as failed:
        if not request.signal and smaller() > noted:
            log.info(f"memory ran out: all processes are started again, with micro-batches {smaller() // noted} times smaller")
            _begin_again(arguments)
        return 128 + request.signal if request.signal else _code_of(failed)
    except (DistError, RendezvousError) as problem:
        raise TrainingError(_lost(environment, join_timeout, problem)) from problem
    finally:
        over.set()
        if meeting is not None:
            meeting.rest()
        for number, handler in before.items():
            signal.signal(number, handler)
    return 128 + request.signal if request.signal and environment.max_restarts else 0  # see train_run: stopped ones end well


def _begin_again(arguments: list[str]) -> NoReturn:
    """In this process's place, as torchrun keeps its stores and ports for as long as a process lives."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", "hone", *arguments])


def _hand_on(over: threading.Event, number: int) -> None:
    """Ask the processes to stop. torchrun would kill them 30 seconds later, which a long step and a save may exceed."""
    asked = _children(os.getpid())
    for process in asked:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGTERM)
    threading.Thread(target=_end_restarted, args=(over, number, set(asked)), daemon=True).start()


def _end_restarted(over: threading.Event, number: int, asked: set[int]) -> None:
    """End processes that torchrun starts in place of those that were asked to stop.

    One that is asked while Python starts ends by the signal, which torchrun takes for a failure: the wish would be lost.
    """
    over.wait(ECHO_SECONDS)
    while not over.wait(0.1):
        if not asked.issuperset(_children(os.getpid())):
            os.kill(os.getpid(), number)
            return


def _end_now(number: int, _: FrameType | None) -> None:
    """What torchrun does at a signal: end the processes, kill those that stay."""
    raise SignalException("asked twice to stop", signal.Signals(number))


def _lost(environment: Environment, seconds: int, problem: Exception) -> str:
    """What to say where torchrun lost the other machines or did not find them."""
    address, port = master_of(environment)
    if isinstance(problem, RendezvousError) and "timed out" in str(problem).lower():
        least = environment.min_nodes or environment.num_nodes
        place = f"{address}:{port} (RDZV_ID {environment.rendezvous_id})"
        return f"fewer than {least} machines came to {place} within {seconds} s (join_timeout)"
    return (
        f"the machine at {address}:{port}, where the run's machines meet, has gone or cannot be reached any more "
        f"({str(problem).splitlines()[0][:160]}). Once it is back, the same command continues from the newest complete checkpoint"
    )


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
