"""hone env: versions and devices of this machine, as a fault's reporter and its reader need them.

Does not import the packages it names, but for torch, which alone knows the devices.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType

import hone
from hone.config.environment import DEFAULT_PORT, read_environment
from hone.errors import HoneError

PACKAGES = ("torch", "transformers", "datasets", "accelerate", "peft", "tokenizers", "safetensors", "pydantic")
OPTIONAL = (
    "bitsandbytes",
    "flash-attn",
    "deepspeed",
    "vllm",
    "sglang",
    "ray",
    "tensorboard",
    "wandb",
    "mlflow",
    "swanlab",
    "matplotlib",
)
ABSENT = "not installed"


def main(arguments: list[str]) -> int:
    """Print one "name: value" a line, or with --json one object."""
    if others := [word for word in arguments if word != "--json"]:
        raise HoneError(f"env takes --json alone, saw {' '.join(others)}")
    found = report()
    if "--json" in arguments:
        print(json.dumps(found, indent=1))
    else:
        print("\n".join(f"- {name}: {value}" for name, value in found.items()))
    return 0


def report() -> dict[str, str]:
    """What is here, by name; what is absent says so."""
    found = {"hone": hone.__version__, "commit": _commit(), "platform": platform.platform(), "Python": platform.python_version()}
    found["processors"] = str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    found["memory"] = _memory()
    found |= {name: _version(name) for name in PACKAGES}
    found |= _devices()
    found["processes"] = _processes()
    found |= {name: _version(name) for name in OPTIONAL}
    return found


def _processes() -> str:
    """What the environment says of machines and processes, as `hone train` would take it."""
    environment, mistakes = read_environment()
    cluster, place = environment.cluster, f"{environment.master_addr}:{environment.master_port or DEFAULT_PORT}"
    by = f" (by {cluster.scheduler})" if cluster.scheduler else ""
    hosts = f"; machines {', '.join(cluster.hosts[:8])}{' and more' if len(cluster.hosts) > 8 else ''}" if cluster.hosts else ""
    if mistakes:
        return "; ".join(f"{mistake.key} {mistake.message}" for mistake in mistakes)
    if environment.launched:
        words = {**os.environ, **cluster.words}
        return f"this is rank {words['RANK']} of {words['WORLD_SIZE']}, which meet at {place}{by}{hosts}"
    each, meets = f"processes on each: {environment.num_processes_per_node or 'one a device'}", f"they meet at {place}"
    if environment.rendezvous_id:
        least, most = (number or environment.num_nodes for number in (environment.min_nodes, environment.max_nodes))
        return f"{least} to {most} machines, {each}; {meets}, RDZV_ID {environment.rendezvous_id}{by}"
    if environment.num_nodes > 1:
        return f"machine {environment.node_rank} of {environment.num_nodes}, {each}; {meets}{by}{hosts}"
    return f"this machine alone, {each.replace(' on each', '')}{by}{hosts}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ABSENT


def _commit() -> str:
    root = Path(hone.__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return "installed without a checkout"
    try:
        asked = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "git is not installed"
    return asked.stdout.strip() or "unknown to git"


def _memory() -> str:
    if "SC_PHYS_PAGES" not in os.sysconf_names:
        return "unknown"
    return _gib(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"


def _torch() -> ModuleType | None:
    try:
        return importlib.import_module("torch")
    except ImportError:
        return None


def _devices() -> dict[str, str]:
    torch = _torch()
    if torch is None:
        return {"device": "unknown without torch"}
    if not torch.accelerator.is_available():
        return {"device": "cpu"}
    kind = torch.accelerator.current_accelerator().type
    found = {"device": kind, "devices": str(torch.accelerator.device_count())}
    if kind == "cuda":
        found["device name"] = torch.cuda.get_device_name(0)
        found["device memory"] = _gib(torch.cuda.get_device_properties(0).total_memory)
        found["CUDA"] = str(torch.version.cuda or torch.version.hip)
    return found
