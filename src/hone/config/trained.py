"""Trained: the chat settings that a model's or an adapter's folder was trained with, held against those of its use.

Does not know chat formats nor what a folder holds besides the run.yaml that training left in it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import yaml

from hone.config.adapter import Adapted, Adapter
from hone.config.chat import ChatConfig
from hone.config.model import ModelConfig
from hone.config.tree import to_dict

_OF_THE_TEXT = ("template", "default_system", "tool_format")
"""Settings without which training and use see other tokens."""


def other_than_trained(model: ModelConfig, adapter: Adapter, chat: ChatConfig) -> list[str]:
    """A line for each setting of the text that is another one than the model or an adapter of it was trained with."""
    now, lines = to_dict(chat), []
    for folder in _folders(model, adapter):
        there = _chat_of(folder)
        for key in _OF_THE_TEXT if there is not None else ():
            if there.get(key) != now.get(key):
                lines.append(
                    f"{key}: {_said(now.get(key))} here, and {folder} was trained with {_said(there.get(key))}; "
                    "training and use should see the same tokens"
                )
    return lines


def _folders(model: ModelConfig, adapter: Adapter) -> Iterable[Path]:
    yield Path(model.model_name_or_path)
    if isinstance(adapter, Adapted):
        for name in adapter.adapter_name_or_path:
            yield Path(name) / (adapter.adapter_folder or "")


def _chat_of(folder: Path) -> dict[str, object] | None:
    """The chat section of the folder's run.yaml; None where training left none there."""
    try:
        found = yaml.safe_load((folder / "run.yaml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):  # not there, or a file of somebody else's
        return None
    chat = found.get("chat") if isinstance(found, dict) else None
    return chat if isinstance(chat, dict) else None


def _said(value: object) -> str:
    return "none (left out)" if value is None else str(value)
