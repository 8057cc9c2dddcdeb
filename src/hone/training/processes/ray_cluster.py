"""Ray: the processes of a run started on a cluster that Ray keeps, as torchrun starts them on machines of one's own.

Does not know what the processes do: each is `hone train` with torchrun's variables, and what it says is said here.
"""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hone import log
from hone.config.parallel import ParallelConfig
from hone.errors import MissingExtra, TrainingError
from hone.training.processes.signals import StopRequest

GRACE_SECONDS = 15.0
"""How long the others may take to end when a process has failed: most wait for it in a sum, and never will."""

_CARRIED = (
    "ALLOW_", "DS_", "GLOO_", "HF_", "MKL_", "MLFLOW_", "MODELSCOPE_", "NCCL_", "OMP_", "OPENMIND_", "PYTHON", "PYTORCH_",
    "SWANLAB_", "TOKENIZERS_", "TORCH_", "USE_", "WANDB_",
)  # fmt: skip
"""Beginnings of variables of this process that the run's processes are given: elsewhere they would have their machine's alone."""


class Agent:
    """Keeps one process of the run, in a worker of Ray's."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def place(self) -> tuple[str, int]:
        """This machine's address for the others, and a port that is free on it."""
        import ray

        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), probe.getsockname()[1]

    def run(self, arguments: list[str], variables: dict[str, str], folder: str) -> Iterator[str | int]:
        """What `hone <arguments>` says, line by line, and at its end its exit code."""
        environment = {**os.environ, **variables}
        if not Path(folder).is_dir():
            yield f"{folder} is not on {socket.gethostname()}: all machines of the cluster must see the run's folders\n"
            yield 2
            return
        words = [sys.executable, "-m", "hone", *arguments]
        out = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
        self._process = subprocess.Popen(words, env=environment, cwd=folder, **out)
        assert self._process.stdout is not None
        try:
            while line := self._process.stdout.readline():
                yield line
            code = self._process.wait()
        finally:
            self._process.kill()
        yield code if code >= 0 else 128 - code

    def signal(self, number: int) -> None:
        """Hand a signal on."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)


def launch_on_ray(parallel: ParallelConfig, arguments: list[str], *, use_cpu: bool) -> int:
    """Run `hone <arguments>` in `ray_num_workers` processes of a cluster; the exit code is that of the one that failed first.

    The first SIGTERM or Ctrl-C is handed on: the processes save a checkpoint and end. The code is then 128 + the signal.
    Raises TrainingError where the cluster is not there or has no room for them.
    """
    ray = _joined(parallel)
    try:
        agents = _placed(ray, parallel, use_cpu=use_cpu)
        variables = _variables(ray.get([agent.place.remote() for agent in agents]))
        log.info(f"Ray starts {len(agents)} processes, which meet at {variables[0]['MASTER_ADDR']}:{variables[0]['MASTER_PORT']}")
        streams = [
            agent.run.options(num_returns="streaming").remote(arguments, mine, os.getcwd())
            for agent, mine in zip(agents, variables, strict=True)
        ]

        def hand_on(_: int) -> None:
            for agent in agents:
                agent.signal.remote(signal.SIGTERM)

        with StopRequest(hand_on) as request:
            code = _watch(ray, agents, streams, request)
        return 128 + request.signal if request.signal and code else code
    except ray.exceptions.RayError as problem:
        if "No module named 'hone'" in str(problem):
            said = "use_ray: hone is not installed on a machine of the cluster; install the same version on all of them"
            raise TrainingError(said) from problem
        raise TrainingError(f"use_ray: a process of the run was lost with its machine or by Ray: {problem}") from problem
    finally:
        ray.shutdown()


def _joined(parallel: ParallelConfig) -> Any:
    """The module `ray`, joined to a cluster: the one that is named, or one of this machine that ends with this process."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers of the run
    os.environ.setdefault("RAY_worker_niceness", "0")  # it would let all else on the machine go before the run
    if _is_named(parallel) and _has_token():
        # `ray start` asks for the token that it finds, `ray.init` of Ray 2.60 shows none to a cluster that stands already.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    try:
        import ray
    except ImportError as problem:
        raise MissingExtra("ray", "ray", "use_ray") from problem
    settings = {"logging_level": "error", "log_to_driver": False, **parallel.ray_init_kwargs}
    try:
        ray.init(**({} if _is_named(parallel) else {"include_dashboard": False}), **settings)
    except (ConnectionError, OSError, RuntimeError, TypeError, ValueError) as problem:
        raise TrainingError(
            f"use_ray: no cluster could be joined or started (ray_init_kwargs, RAY_ADDRESS): {problem}. A cluster that asks for "
            "a token wants RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH here too"
        ) from problem
    return ray


def _has_token() -> bool:
    place = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "") or "~/.ray/auth_token").expanduser()
    return bool(os.environ.get("RAY_AUTH_TOKEN", "")) or place.is_file()


def _is_named(parallel: ParallelConfig) -> bool:
    """Whether the cluster stands already, and may grow; one of this machine alone has what it has."""
    return "address" in parallel.ray_init_kwargs or "RAY_ADDRESS" in os.environ


def _placed(ray: Any, parallel: ParallelConfig, *, use_cpu: bool) -> list[Any]:
    """An agent for each process, where Ray has put it."""
    share = parallel.resources_per_worker or ({"CPU": 1} if use_cpu else {"CPU": 1, "GPU": 1})
    bundles = [dict(share) for _ in range(parallel.ray_num_workers)]
    group = ray.util.placement_group(bundles, strategy=parallel.placement_strategy)
    try:
        ray.get(group.ready(), timeout=parallel.ddp_timeout if _grows(ray, bundles) else 60 if _is_named(parallel) else 1)
    except ray.exceptions.GetTimeoutError as problem:
        has = ", ".join(
            f"{name} {number:g}" for name, number in sorted(ray.cluster_resources().items()) if name in {*share, "CPU"}
        )
        asked = ", ".join(f"{name} {number:g}" for name, number in share.items())
        raise TrainingError(
            f"use_ray: the cluster has no room for {len(bundles)} processes of {asked} each ({parallel.placement_strategy}); it "
            f"has {has} in all. Lower ray_num_workers or resources_per_worker, or write use_cpu: true where it has no GPU"
        ) from problem
    kind = ray.remote(max_concurrency=4)(Agent)  # signals are handed on while it runs
    return [kind.options(**_asking(ray, group, number, share)).remote() for number in range(len(bundles))]


def _grows(ray: Any, bundles: list[dict[str, float]]) -> bool:
    """Whether room may come: the cluster has it and others hold it now. One that has too little is not waited for long."""
    has = ray.cluster_resources()
    return all(sum(bundle.get(name, 0) for bundle in bundles) <= has.get(name, 0) for name in bundles[0])


def _asking(ray: Any, group: Any, number: int, share: dict[str, float]) -> dict[str, Any]:
    strategy = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=number)
    others = {name: count for name, count in share.items() if name not in ("CPU", "GPU")}
    asked = {"num_cpus": share.get("CPU", 0), "num_gpus": share.get("GPU", 0), "resources": others}
    return {**asked, "scheduling_strategy": strategy}


def _variables(places: list[tuple[str, int]]) -> list[dict[str, str]]:
    """torchrun's variables for each process; those of one machine have ranks after each other. Each sees its own GPU alone."""
    order = sorted(range(len(places)), key=lambda number: (places[number][0] != places[0][0], places[number][0], number))
    carried = {name: value for name, value in os.environ.items() if name.startswith(_CARRIED)}
    found = [dict(carried) for _ in places]
    for rank, number in enumerate(order):
        beside = sum(address == places[number][0] for address, _ in places)
        mine = {"RANK": rank, "LOCAL_RANK": 0, "WORLD_SIZE": len(places), "LOCAL_WORLD_SIZE": beside}
        mine |= {"MASTER_ADDR": places[order[0]][0], "MASTER_PORT": places[order[0]][1]}
        found[number] |= {name: str(value) for name, value in mine.items()}
    return found


def _watch(ray: Any, agents: list[Any], streams: list[Any], request: StopRequest) -> int:
    """Say what the first process says as it comes, and what others alone say at the end; the code of the first that failed."""
    heard: queue.Queue[tuple[int, str | int]] = queue.Queue()
    for number, stream in enumerate(streams):
        threading.Thread(target=_listen, args=(ray, number, stream, heard), daemon=True).start()
    said, kept, codes, ends = set[str](), list[str](), dict[int, int](), float("inf")
    while len(codes) < len(streams):
        try:
            number, line = heard.get(timeout=1.0)
        except queue.Empty:
            if time.monotonic() > ends:
                _end(agents, codes, signal.SIGKILL)
                ends = float("inf")
            continue
        if isinstance(line, int):
            codes[number] = line
            if line and ends == float("inf") and not request.signal:
                _end(agents, codes, signal.SIGTERM)
                ends = time.monotonic() + GRACE_SECONDS
        elif number == 0:
            said.add(line)
            print(line, end="", file=sys.stderr, flush=True)
        else:
            kept.append(line)
    for line in kept:
        if (plain := line.partition("] ")[2] if line.startswith("[rank ") else line) not in said:
            said.add(plain)
            print(line, end="", file=sys.stderr, flush=True)
    return next((code for code in codes.values() if code), 0)


def _listen(ray: Any, number: int, stream: Any, heard: queue.Queue[tuple[int, str | int]]) -> None:
    try:
        for line in stream:
            heard.put((number, ray.get(line)))
    except ray.exceptions.RayError as problem:
        heard.put((number, f"the process was lost by Ray: {problem}\n"))
        heard.put((number, 1))


def _end(agents: list[Any], ended: dict[int, int], number: int) -> None:
    for place, agent in enumerate(agents):
        if place not in ended:
            agent.signal.remote(int(number))
