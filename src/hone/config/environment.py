"""Environment: every environment variable the house listens to, read at this one door.

Knows no setting of the tree; torchrun's own variables (RANK, WORLD_SIZE ...) and the hub's are read by their libraries.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from hone.errors import ConfigError, Mistake

REFUSED = {
    "USE_RAY": "Ray is not in this version; unset it: `hone train` starts one process a GPU by itself",
    "USE_KT": "KTransformers is not in this version; unset it",
    "USE_MCA": "Megatron is not in this version; unset it: several GPUs train by DDP",
    "USE_MEGATRON_BRIDGE": "Megatron is not in this version; unset it: several GPUs train by DDP",
    "USE_V1": "LLaMA-Factory's second generation has other keys; unset it and write those that `hone help` lists",
}

HUBS: dict[str, Literal["ms", "om"]] = {"USE_MODELSCOPE_HUB": "ms", "USE_OPENMIND_HUB": "om"}


@dataclass(frozen=True)
class Environment:
    """What the environment says about starting processes and about strictness; LLaMA-Factory's names and defaults.

    num_processes_per_node and master_port: None where not said; rendezvous_id: "" for a fixed set of machines.
    hub: where models and data sets come from: "hf" Hugging Face, "ms" ModelScope, "om" Modelers.
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
    wandb_project: str
    hub: Literal["hf", "ms", "om"]


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


NO_MEDIA = "is about pictures and other files, which `hone api` does not read in this version; unset it"


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

    if is_true(variables.get("ALLOW_LOCAL_FILES", "")):
        mistakes.append(Mistake("environment", "ALLOW_LOCAL_FILES", NO_MEDIA))
    if variables.get("SAFE_MEDIA_PATH", "").strip():
        mistakes.append(Mistake("environment", "SAFE_MEDIA_PATH", NO_MEDIA))
    found = ApiEnvironment(
        host=variables.get("API_HOST", "").strip() or "127.0.0.1",
        port=number("API_PORT", 8000, 65535),
        key=variables.get("API_KEY", "").strip(),
        name=variables.get("API_MODEL_NAME", "").strip() or "gpt-3.5-turbo",
        root_path=variables.get("FASTAPI_ROOT_PATH", "").strip().rstrip("/"),
        num_running=number("MAX_CONCURRENT", 8, 1024),
        tells=is_true(variables.get("API_VERBOSE", "1")),
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
    """The environment, and a mistake for each variable that is not a number or asks for what is not here."""
    mistakes = [Mistake("environment", name, reason) for name, reason in REFUSED.items() if is_true(variables.get(name, ""))]

    def number(name: str) -> int | None:
        text = variables.get(name, "").strip()
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
        master_addr=variables.get("MASTER_ADDR", "127.0.0.1"),
        master_port=number("MASTER_PORT"),
        rendezvous_id=variables.get("RDZV_ID", ""),
        min_nodes=number("MIN_NNODES"),
        max_nodes=number("MAX_NNODES"),
        max_restarts=number("MAX_RESTARTS") or 0,
        tune_torch=is_true(variables.get("OPTIM_TORCH", "1")),
        launched="TORCHELASTIC_RUN_ID" in variables or {"RANK", "WORLD_SIZE"} <= variables.keys(),
        wandb_project=variables.get("WANDB_PROJECT", "llamafactory"),
        hub=HUBS[others[0]] if others else "hf",
    )
    return environment, mistakes
