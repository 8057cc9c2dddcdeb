"""Environment: every environment variable the house listens to, read at this one door.

Knows no setting of the tree; what a scheduler says is translated by `cluster`; the hub's variables are read by its library.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from hone.config.cluster import Cluster, recognised
from hone.errors import ConfigError, Mistake

REFUSED = {
    "USE_KT": "KTransformers is not in this version; unset it",
    "USE_MCA": "Megatron is not in this version; unset it: several GPUs train by DDP, FSDP2 or ZeRO",
    "USE_MEGATRON_BRIDGE": "Megatron is not in this version; unset it: several GPUs train by DDP, FSDP2 or ZeRO",
    "USE_V1": "LLaMA-Factory's second generation has other keys; unset it and write those that `hone help` lists",
}

DEFAULT_PORT = 29500
"""Fixed: a random one would differ between the machines of one run."""

HUBS: dict[str, Literal["ms", "om"]] = {"USE_MODELSCOPE_HUB": "ms", "USE_OPENMIND_HUB": "om"}


@dataclass(frozen=True)
class Environment:
    """What the environment says about starting processes and about strictness; LLaMA-Factory's names and defaults.

    num_processes_per_node and master_port: None where not said; rendezvous_id: "" for a fixed set of machines.
    launched: this is one of the run's processes, started by torchrun or a scheduler. cluster: what a scheduler said.
    hub: where models and data sets come from: "hf" Hugging Face, "ms" ModelScope, "om" Modelers.
    restarts_left: how often torchrun, which started this process, would start it again.
    sharding: accelerate's variables, where `accelerate launch` started this process and was told of FSDP; else None.
    """

    allow_extra_args: bool
    force_torchrun: bool
    num_nodes: int
    node_rank: int
    num_processes_per_node: int | None
    master_addr: str
    master_port: int | None
    rendezvous_id: str
    min_nodes: int | None
    max_nodes: int | None
    max_restarts: int
    tune_torch: bool
    launched: bool
    restarts_left: int
    use_ray: bool
    cluster: Cluster
    wandb_project: str
    hub: Literal["hf", "ms", "om"]
    sharding: Mapping[str, str] | None = None


@dataclass(frozen=True)
class ApiEnvironment:
    """What the environment says about `hone api`; LLaMA-Factory's names, and its defaults but for host and num_running.

    host, port: the address; key: what requests must bring, "" for nothing; name: of the model; root_path: where a proxy in
    front puts the server; num_running: requests that are answered at once; tells: whether each request is a line of the log.
    """

    host: str
    port: int
    key: str
    name: str
    root_path: str
    num_running: int
    tells: bool
    media_folder: str = ""
    local_files: bool | None = None

    def media_folder_with(self, said: str | None) -> str | None:
        """The folder whose files requests may name, None for none. said: api_media_folder. Raises: ConfigError."""
        folder = said or (None if self.local_files is False else self.media_folder or None)
        wrong = {
            "SAFE_MEDIA_PATH": said and self.media_folder not in ("", said) and f"and api_media_folder={said} differ: unset it",
            "ALLOW_LOCAL_FILES": (self.local_files and not folder and "needs the folder of these files: api_media_folder")
            or (self.local_files is False and said and f"contradicts api_media_folder={said}: unset one of them"),
            "api_media_folder": folder and not os.path.isdir(folder) and f"{folder} is no folder",
        }
        if mistakes := [Mistake("environment", name, message) for name, message in wrong.items() if message]:
            raise ConfigError(mistakes)
        return folder


GRADIO = {
    "GRADIO_SERVER_NAME": "write API_HOST",
    "GRADIO_SERVER_PORT": "write API_PORT",
    "GRADIO_ROOT_PATH": "write FASTAPI_ROOT_PATH",
    "GRADIO_SHARE": "unset it: the page is served on no other machine",
}
"""LLaMA-Factory's variables of its web pages, and what to write."""


def read_api_environment(variables: Mapping[str, str] = os.environ, *, pages: bool = False) -> ApiEnvironment:
    """The API's part of the environment. Raises: ConfigError for variables that are wrong or ask for what is not here.

    pages: whether pages for browsers are served beside it, for which GRADIO's variables would be meant.
    """
    asked = {name: what for name, what in GRADIO.items() if pages and variables.get(name, "").strip() not in ("", "0", "False")}
    mistakes = [Mistake("environment", name, f"is Gradio's, which is not used; {what}") for name, what in asked.items()]

    def number(name: str, default: int, most: int) -> int:
        text = variables.get(name, "").strip() or str(default)
        if text.isdecimal() and len(text) < 10 and 1 <= int(text) <= most:
            return int(text)
        mistakes.append(Mistake("environment", name, f'saw "{text}", wanted a whole number from 1 to {most}'))
        return default

    allowed = variables.get("ALLOW_LOCAL_FILES", "").strip()
    found = ApiEnvironment(
        host=variables.get("API_HOST", "").strip() or "127.0.0.1",
        port=number("API_PORT", 8000, 65535),
        key=variables.get("API_KEY", "").strip(),
        name=variables.get("API_MODEL_NAME", "").strip() or "gpt-3.5-turbo",
        root_path=variables.get("FASTAPI_ROOT_PATH", "").strip().rstrip("/"),
        num_running=number("MAX_CONCURRENT", 8, 1024),
        tells=is_true(variables.get("API_VERBOSE", "1")),
        media_folder=variables.get("SAFE_MEDIA_PATH", "").strip(),
        local_files=is_true(allowed) if allowed else None,
    )
    if not found.key.isascii():
        mistakes.append(Mistake("environment", "API_KEY", "has letters that a header cannot carry; wanted ASCII"))
    if mistakes:
        raise ConfigError(mistakes)
    return found


def is_true(text: str) -> bool:
    """LLaMA-Factory's rule: true, y and 1, in any case."""
    return text.strip().lower() in ("true", "y", "1")


def read_environment(variables: Mapping[str, str] = os.environ) -> tuple[Environment, list[Mistake]]:
    """The environment, and a mistake for each variable that is not a number, contradicts another or asks for what is not here."""
    mistakes = [Mistake("environment", name, reason) for name, reason in REFUSED.items() if is_true(variables.get(name, ""))]
    cluster = recognised(variables)
    own = {name: value for name, value in variables.items() if value.strip() and name not in cluster.unsaid}
    said = {**cluster.words, **own}

    def number(name: str) -> int | None:
        text = said.get(name, "").strip()
        if text and not text.isdecimal():
            mistakes.append(Mistake("environment", name, f'saw "{text}", wanted a whole number'))
        return int(text) if text.isdecimal() else None

    others = [name for name in HUBS if is_true(variables.get(name, ""))]
    if len(others) > 1:
        mistakes.append(Mistake("environment", others[1], f"set beside {others[0]}; models come from one hub: unset one of them"))
    environment = Environment(
        allow_extra_args=is_true(variables.get("ALLOW_EXTRA_ARGS", "")),
        force_torchrun=is_true(variables.get("FORCE_TORCHRUN", "")),
        num_nodes=number("NNODES") or 1,
        node_rank=number("NODE_RANK") or 0,
        num_processes_per_node=number("NPROC_PER_NODE"),
        master_addr=said.get("MASTER_ADDR", "127.0.0.1").strip(),
        master_port=number("MASTER_PORT"),
        rendezvous_id=said.get("RDZV_ID", ""),
        min_nodes=number("MIN_NNODES"),
        max_nodes=number("MAX_NNODES"),
        max_restarts=number("MAX_RESTARTS") or 0,
        tune_torch=is_true(variables.get("OPTIM_TORCH", "1")),
        launched="TORCHELASTIC_RUN_ID" in said or {"RANK", "WORLD_SIZE", "LOCAL_RANK"} <= said.keys(),
        restarts_left=(number("TORCHELASTIC_MAX_RESTARTS") or 0) - (number("TORCHELASTIC_RESTART_COUNT") or 0),
        cluster=cluster,
        use_ray=is_true(variables.get("USE_RAY", "")),
        wandb_project=variables.get("WANDB_PROJECT", "llamafactory"),
        hub=HUBS[others[0]] if others else "hf",
        sharding=_of_accelerate(variables) if is_true(variables.get("ACCELERATE_USE_FSDP", "")) else None,
    )
    if not environment.launched:
        mistakes += [Mistake("environment", *found) for found in _contradictions(environment)]
    return environment, mistakes


def _contradictions(environment: Environment) -> list[tuple[str, str]]:
    """(variable, what is wrong) of what is said of machines."""
    least, most, machines = environment.min_nodes, environment.max_nodes, environment.num_nodes
    found = []
    if (least is None) != (most is None):
        name, other = ("MAX_NNODES", "MIN_NNODES") if most is None else ("MIN_NNODES", "MAX_NNODES")
        found.append((name, f"missing beside {other}; set both, or NNODES alone"))
    elif least is not None and most is not None:
        if not environment.rendezvous_id:
            found.append(("MIN_NNODES", "has no effect without RDZV_ID; set that to any word, the same on all machines"))
        if not 0 < least <= most:
            found.append(("MIN_NNODES", f"is {least}, and MAX_NNODES is {most}; wanted 1 or more, and no more than MAX_NNODES"))
    if not environment.rendezvous_id and environment.node_rank >= machines:
        found.append(("NODE_RANK", f"is {environment.node_rank} of {machines} machines (NNODES); they count from 0"))
    if environment.master_addr in ("127.0.0.1", "localhost") and machines > 1 and environment.node_rank:
        found.append(("MASTER_ADDR", f"is this machine itself; with NNODES={machines} wanted the address of machine 0"))
    return found


def become_task() -> Environment:
    """The environment of `hone train`. Where a scheduler started a process a device, this one gets torchrun's variables.

    Libraries read them, and a line of the log is told by RANK 0. What means something else to a scheduler's pod is taken away.
    """
    environment, _ = read_environment()
    words = environment.cluster.words
    for name in environment.cluster.unsaid:
        os.environ.pop(name, None)
    if environment.launched and words:
        port = str(environment.master_port or DEFAULT_PORT)
        os.environ.update({**words, "MASTER_ADDR": environment.master_addr, "MASTER_PORT": port})
    return environment


def _of_accelerate(variables: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in variables.items() if name.startswith(("FSDP_", "ACCELERATE_")) and text.strip()}
