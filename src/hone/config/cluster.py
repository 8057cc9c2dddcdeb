"""Cluster: what SLURM, Kubernetes or another scheduler says of this process, in torchrun's and LLaMA-Factory's words.

Does not know what is started, nor what the user's own variables say: those go before.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_OWN = ("NNODES", "NODE_RANK", "RDZV_ID")
"""Who writes one of these places the machines by hand: SLURM is not asked."""

_PET = {"NNODES", "NPROC_PER_NODE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "MAX_RESTARTS", "RDZV_ID"}
"""What torchrun reads as PET_NAME, and Kubeflow's pods carry."""


@dataclass(frozen=True)
class Cluster:
    """scheduler: "SLURM", "Kubernetes", "torchrun's RANK and WORLD_SIZE a machine", or "" for none.

    words: its variables under the names that hone reads; hosts: of the machines, in order, where they are told.
    unsaid: variables of the environment that mean something else here than to torch.
    """

    scheduler: str = ""
    words: Mapping[str, str] = field(default_factory=dict)
    hosts: tuple[str, ...] = ()
    unsaid: tuple[str, ...] = ()


NONE = Cluster()


def recognised(variables: Mapping[str, str]) -> Cluster:
    """What a scheduler says; NONE where there is none, or where torchrun or the user has placed this process already."""
    if "TORCHELASTIC_RUN_ID" in variables or {"RANK", "WORLD_SIZE", "LOCAL_RANK"} <= variables.keys():
        return NONE
    if "PET_NNODES" in variables:
        return _of_pod(variables)
    if "SLURM_JOB_ID" in variables and not any(variables.get(name, "").strip() for name in _OWN):
        return _of_slurm(variables)
    if {"RANK", "WORLD_SIZE"} <= variables.keys():
        machines = {"NNODES": variables["WORLD_SIZE"], "NODE_RANK": variables["RANK"]}
        return Cluster("RANK and WORLD_SIZE without LOCAL_RANK: a machine each", machines, (), ("RANK", "WORLD_SIZE"))
    return NONE


def _of_pod(variables: Mapping[str, str]) -> Cluster:
    """Kubeflow's pods: RANK is the pod's number there and WORLD_SIZE counts processes, so both are left to torchrun."""
    words = {name: variables[f"PET_{name}"] for name in sorted(_PET) if variables.get(f"PET_{name}", "").strip()}
    if not words.get("NPROC_PER_NODE", "").isdecimal():
        words.pop("NPROC_PER_NODE", None)  # "auto", "gpu": a process a device, as without it
    least, _, most = words.get("NNODES", "").partition(":")
    endpoint, _, port = variables.get("PET_RDZV_ENDPOINT", "").partition(":")
    if most or variables.get("PET_RDZV_BACKEND", "static") != "static":
        words |= {"MIN_NNODES": least, "MAX_NNODES": most or least, "RDZV_ID": words.get("RDZV_ID", "hone")}
        words.pop("NNODES", None)
    words |= {"MASTER_ADDR": endpoint} if endpoint else {}
    words |= {"MASTER_PORT": port} if port else {}
    return Cluster("Kubernetes", words, (), ("RANK", "WORLD_SIZE"))


def _of_slurm(variables: Mapping[str, str]) -> Cluster:
    """A job's step: a task a device, each of them a process of the run; or a task a machine, which starts its processes."""

    def said(*names: str) -> str:
        return next((variables[f"SLURM_{name}"] for name in names if variables.get(f"SLURM_{name}", "").strip()), "")

    hosts = expand_hosts(said("STEP_NODELIST", "JOB_NODELIST", "NODELIST"))
    machines = int(said("STEP_NUM_NODES", "NNODES", "JOB_NUM_NODES") or len(hosts) or 1)
    tasks, task = int(said("STEP_NUM_TASKS", "NTASKS") or 1), said("PROCID") or "0"
    port = variables.get("MASTER_PORT", "").strip()
    words = {"MASTER_ADDR": hosts[0] if hosts and machines > 1 else "127.0.0.1", **({"MASTER_PORT": port} if port else {})}
    by_hand = variables.get("FORCE_TORCHRUN", "").strip() or variables.get("NPROC_PER_NODE", "").strip()
    if tasks > machines and not by_hand:
        place, each = int(said("NODEID") or 0), expand_counts(said("STEP_TASKS_PER_NODE", "TASKS_PER_NODE"))
        here = each[place] if place < len(each) else -(-tasks // machines)
        words |= {"RANK": task, "WORLD_SIZE": str(tasks), "LOCAL_RANK": said("LOCALID") or "0", "LOCAL_WORLD_SIZE": str(here)}
    elif machines > 1:
        words |= {"NNODES": str(machines), "NODE_RANK": said("NODEID", "PROCID") or "0"}
    else:
        words = {}
    return Cluster("SLURM", words, hosts)


def expand_hosts(text: str) -> tuple[str, ...]:
    """SLURM's list of machines, each by its name: `expand_hosts("gpu[08-10,12],b1")` is gpu08, gpu09, gpu10, gpu12, b1."""
    found: list[str] = []
    for part in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", text.strip()):
        found += _each_of(part)
    return tuple(found)


def _each_of(part: str) -> list[str]:
    opened = re.match(r"([^\[]*)\[([^\]]*)\](.*)", part)
    if not opened:
        return [part]
    before, inside, after = opened.groups()
    numbers: list[str] = []
    for span in inside.split(","):
        first, _, last = span.partition("-")
        numbers += [str(number).zfill(len(first)) for number in range(int(first), int(last or first) + 1)]
    return [before + number + rest for number in numbers for rest in _each_of(after)]


def expand_counts(text: str) -> list[int]:
    """SLURM's tasks a machine: `expand_counts("4(x2),1")` is [4, 4, 1]."""
    counts: list[int] = []
    for number, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", text):
        counts += [int(number)] * int(times or 1)
    return counts
