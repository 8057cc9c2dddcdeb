"""A saved adapter's folder: found, opened, and understood from its config alone.

Does not know peft nor the model the adapter belongs to.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from hone.config.adapter import Adapted, Adapter
from hone.config.shards import about_shards, is_in_shards
from hone.errors import ModelError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
KINDS = ("LORA", "OFT")
"""peft's names of the types that are loaded."""
OWN_WEIGHTS = ("lora_", "oft_")
"""What the names of an adapter's own weights hold, which the base has none of."""


@dataclass(frozen=True)
class AdapterFolder:
    """path: holds CONFIG and WEIGHTS; config: what CONFIG says."""

    path: Path
    config: dict[str, Any]

    @property
    def kind(self) -> str:
        """The word of finetuning_type that made it."""
        return str(self.config["peft_type"]).lower()

    @property
    def base_name(self) -> str:
        """The base it says it was trained on."""
        return str(self.config.get("base_model_name_or_path"))


def locate(name: str, subfolder: str | None = None, *, key: str = "adapter_name_or_path") -> AdapterFolder:
    """The folder `name` (or the hub's repository of that id), opened; ModelError where there is no readable adapter in it.

    key: the setting that named it.
    """
    path = Path(name)
    if not path.is_dir():
        if path.exists() or name.startswith((".", "/", "~")) or name.count("/") != 1:
            seen = "is a file" if path.exists() else "does not exist"
            raise ModelError(f"{key}: {name} {seen}; name a folder that holds {CONFIG}, or a hub id (owner/name)")
        path = _fetch(name, key)
    return read_folder(path / subfolder if subfolder else path, key)


def folders_of(adapter: Adapter) -> list[Path]:
    """The folders of every adapter that is named, in order."""
    if not isinstance(adapter, Adapted):
        return []
    return [locate(name, adapter.adapter_folder).path for name in adapter.adapter_name_or_path]


def read_folder(path: Path, key: str = "adapter_name_or_path") -> AdapterFolder:
    """Open a folder that is there; ModelError where it holds no adapter of LoRA or OFT."""
    file = path / CONFIG
    if not file.is_file():
        checkpoints = sorted(inner.name for inner in path.glob("checkpoint-*")) if path.is_dir() else []
        held = f"; its {', '.join(checkpoints)} may" if checkpoints else ""
        whole = "; it is a whole model: name it under model_name_or_path" if (path / "config.json").is_file() else ""
        parts = f"; {about_shards(path)}" if is_in_shards(path) else ""
        raise ModelError(f"{key}: {path} holds no {CONFIG}{parts or whole or held}")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as problem:
        raise ModelError(f"{file} cannot be read: {problem}") from problem
    if not isinstance(config, dict) or "peft_type" not in config:
        raise ModelError(f"{file} is not an adapter's config: it names no peft_type")
    if config["peft_type"] not in KINDS:
        raise ModelError(f"{path} is an adapter of type {config['peft_type']}; {' and '.join(KINDS)} adapters are loaded")
    if str(config.get("init_lora_weights")).startswith("pissa_niter"):
        raise ModelError(
            f"{path} was started by {config['init_lora_weights']}, a decomposition of its base that is random and cannot be made "
            "again, and saved without conversion; name the converted adapter (LLaMA-Factory writes pissa_converted beside it)"
        )
    if not (path / WEIGHTS).is_file():
        old = "; adapter_model.bin is not read, as it may run code" if (path / "adapter_model.bin").is_file() else ""
        raise ModelError(f"{path} holds no {WEIGHTS}{old}")
    return AdapterFolder(path, config)


def _fetch(name: str, key: str) -> Path:
    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as problem:
        lines = str(problem).splitlines() or [type(problem).__name__]
        raise ModelError(f"{key}: there is no folder {name} here, and the hub does not give it: {lines[0]}") from problem
