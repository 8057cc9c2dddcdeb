"""Launch: the command and variables by which a vLLM or SGLang server is started for the settings, and the engine that asks it.

Does not know what is asked. What a server cannot do of the settings is refused before it is started.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from hone.adapters.folder import AdapterFolder, read_folder
from hone.chat.codec import Codec
from hone.config.model import ModelConfig
from hone.config.serve import ServeConfig
from hone.errors import ModelError, at_once
from hone.inference.servers.engine import ServerEngine, rank_of, require_room
from hone.inference.servers.sglang import ORIGINAL, SglangClient
from hone.inference.servers.started import StartedServer, free_port
from hone.inference.servers.vllm import VllmClient

SERVERS = ("vllm", "sglang")
_SETTLED = {
    "vllm": dict.fromkeys(("model", "host", "port", "api_key", "served_model_name", "generation_config"), "hone sets it")
    | {
        "max_model_len": "write vllm_maxlen",
        "gpu_memory_utilization": "write vllm_gpu_util",
        "enforce_eager": "write vllm_enforce_eager",
        "max_lora_rank": "write vllm_max_lora_rank",
        "dtype": "write infer_dtype",
    },
    "sglang": dict.fromkeys(("model_path", "host", "port", "api_key", "skip_tokenizer_init"), "hone sets it")
    | {
        "context_length": "write sglang_maxlen",
        "mem_fraction_static": "write sglang_mem_fraction",
        "tp_size": "write sglang_tp_size",
        "lora_backend": "write sglang_lora_backend",
        "dtype": "write infer_dtype",
    },
}
"""What a mapping of further settings may not hold, and why."""


@dataclass(frozen=True)
class Room:
    """What a server is to hold. dtype: of its weights; held: tokens that the model can hold, None for unknown.

    base: an adapter that stands for the base; num_adapters: all that may come, this one too.
    """

    dtype: torch.dtype
    held: int | None
    base: AdapterFolder | None
    num_adapters: int


def build_server_engine(model: ModelConfig, codec: Codec, serve: ServeConfig, room: Room, *, num_together: int) -> ServerEngine:
    """The engine of serve.infer_backend, its server started, or the one at serve.infer_url. Raises: ModelError.

    model: its place known to the server.
    """
    vllm, ours = serve.infer_backend == "vllm", serve.infer_url is None
    largest = serve.vllm_max_lora_rank if vllm and ours else None
    if room.base is not None:
        require_room(room.base, largest_rank=largest)
    url, key = _start(model, serve, room) if ours else (serve.infer_url, serve.infer_key or "")
    client = VllmClient(url, key) if vllm else SglangClient(url, key, ours=ours)
    return ServerEngine(client, codec, num_together=num_together, base=room.base, largest_rank=largest)


def require_server(model: ModelConfig, serve: ServeConfig, folders: list[Path]) -> str:
    """The program that is to be started, or the URL that is to be asked. Raises: ModelError, or Several, for what is unfit."""
    name, largest = serve.infer_backend, serve.vllm_max_lora_rank if serve.infer_backend == "vllm" else None

    def fits() -> None:
        base = only_adapter(folders, name)
        if base is not None:
            require_room(base, largest_rank=largest if serve.infer_url is None else None)

    config = serve.vllm_config if name == "vllm" else serve.sglang_config
    looks = [partial(refuse_unfit, model, name), fits, partial(_further, name, config)]
    at_once(looks if serve.infer_url is not None else [*looks, partial(_program, serve)])
    return serve.infer_url or _program(serve)


def only_adapter(folders: list[Path], backend: str) -> AdapterFolder | None:
    """The adapter that stands for the base. Raises: ModelError where there are several."""
    if len(folders) > 1:
        raise ModelError(
            f"adapter_name_or_path: {backend} puts one adapter onto the base, and {len(folders)} are named; merge them with hone "
            "export, or name them in api_adapters for requests to choose"
        )
    return read_folder(folders[0]) if folders else None


def _start(model: ModelConfig, serve: ServeConfig, room: Room) -> tuple[str, str]:
    """Address and key of the server, which answers."""
    port, key = free_port(), secrets.token_hex(16)
    if serve.infer_backend == "vllm":
        words = vllm_words(model, serve, room, port)
        variables = {"VLLM_API_KEY": key, "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}
    else:
        words, variables = sglang_words(model, serve, room, port, key), dict(ORIGINAL)
    if model.hf_hub_token:
        variables["HF_TOKEN"] = model.hf_hub_token
    url = f"http://127.0.0.1:{port}"
    StartedServer(serve.infer_backend, [_program(serve), "serve", *words], variables, url).wait()
    return url, key


def refuse_unfit(model: ModelConfig, backend: str) -> None:
    """Raise ModelError where the settings shape the model in a way that a server, which reads its files alone, does not know."""
    shaped = {
        "quantization_bit": model.quantization,
        "rope_scaling": model.rope_scaling,
        "resize_vocab": model.resize_vocab,
        "add_tokens": model.add_tokens,
        "add_special_tokens": model.add_special_tokens,
        "train_from_scratch": model.train_from_scratch,
    }
    if named := [key for key, value in shaped.items() if value]:
        raise ModelError(
            f"{', '.join(named)}: {backend} reads the model's files as they are; write infer_backend: huggingface, or serve what "
            "`hone export` has written, without these keys"
        )


def vllm_words(model: ModelConfig, serve: ServeConfig, room: Room, port: int) -> list[str]:
    """What follows `vllm serve`."""
    settings: dict[str, Any] = {
        "host": "127.0.0.1",
        "port": port,
        "dtype": str(room.dtype).removeprefix("torch."),
        "max_model_len": min(serve.vllm_maxlen, room.held or serve.vllm_maxlen),
        "gpu_memory_utilization": serve.vllm_gpu_util,
        "tensor_parallel_size": max(1, torch.accelerator.device_count()),
        "generation_config": "vllm",  # no numbers of the model's own file
        "enforce_eager": serve.vllm_enforce_eager,
        "disable_uvicorn_access_log": True,
    }
    if room.num_adapters:
        settings |= {"enable_lora": True, "max_lora_rank": serve.vllm_max_lora_rank, "max_loras": room.num_adapters}
    return [model.model_name_or_path, *_words(settings | _files(model) | _further("vllm", serve.vllm_config))]


def sglang_words(model: ModelConfig, serve: ServeConfig, room: Room, port: int, key: str) -> list[str]:
    """What follows `sglang serve`."""
    settings: dict[str, Any] = {
        "model_path": model.model_name_or_path,
        "host": "127.0.0.1",
        "port": port,
        "api_key": key,
        "dtype": str(room.dtype).removeprefix("torch."),
        "context_length": min(serve.sglang_maxlen, room.held or serve.sglang_maxlen),
        "mem_fraction_static": serve.sglang_mem_fraction,
        "tp_size": serve.sglang_tp_size if serve.sglang_tp_size > 0 else max(1, torch.accelerator.device_count()),
        "sampling_defaults": "openai",  # no numbers of the model's own file
        "log_level_http": "warning",
    }
    if room.num_adapters:
        rank = rank_of(room.base) if room.base is not None else 0
        settings |= {"enable_lora": True, "lora_backend": serve.sglang_lora_backend, "lora_target_modules": ["all"]}
        settings |= {"max_lora_rank": max(rank, 64), "max_loras_per_batch": room.num_adapters + 1}
    return _words(settings | _files(model) | _further("sglang", serve.sglang_config))


def _files(model: ModelConfig) -> dict[str, Any]:
    said = {"download_dir": model.cache_dir, "trust_remote_code": model.trust_remote_code or None}
    revision = model.model_revision if model.model_revision != "main" else None
    return {name: value for name, value in (said | {"revision": revision}).items() if value is not None}


def _further(backend: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The user's own settings; ModelError for those that have another place."""
    further = {name.replace("-", "_"): value for name, value in config.items()}
    if wrong := [f"{name} ({_SETTLED[backend][name]})" for name in further if name in _SETTLED[backend]]:
        raise ModelError(f"{backend}_config: {', '.join(wrong)}")
    return further


def _words(settings: Mapping[str, Any]) -> list[str]:
    """--name value of each; True is the flag alone, False is left out, a list several values, a mapping JSON."""
    words: list[str] = []
    for name, value in settings.items():
        if value is False or value is None:
            continue
        words.append(f"--{name.replace('_', '-')}")
        if isinstance(value, list):
            words += map(str, value)
        elif value is not True:
            words.append(json.dumps(value) if isinstance(value, Mapping) else str(value))
    return words


def _program(serve: ServeConfig) -> str:
    name = serve.infer_backend
    if serve.infer_environment is not None:
        program = Path(serve.infer_environment).expanduser() / "bin" / name
        if not program.is_file():
            raise ModelError(f"infer_environment: there is no program {program}; install {name} there")
        return str(program)
    found = shutil.which(name)
    if found is None:
        raise ModelError(
            f"infer_backend: {name} needs the program {name}, which is not on PATH; make an environment for it (python -m venv "
            f"~/envs/{name}; ~/envs/{name}/bin/pip install {name}) and write infer_environment: ~/envs/{name}"
        )
    return found
