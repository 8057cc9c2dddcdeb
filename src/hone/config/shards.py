"""Shards: how a checkpoint that its processes wrote in shares is told from a model, and what to do with one.

Does not know torch, nor what lies in the shards.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = "sharded"
"""In a checkpoint: weights and moments as they lay on the processes."""

_WEIGHTS = ("model*.safetensors", "adapter_model.safetensors")


def is_in_shards(place: str | Path) -> bool:
    """Whether a folder is a checkpoint whose weights are in shards alone."""
    folder = Path(place)
    return (folder / FOLDER / ".metadata").is_file() and not any(next(folder.glob(name), None) for name in _WEIGHTS)


def about_shards(place: str | Path) -> str:
    """What to say of such a folder where a model or an adapter was expected."""
    return (
        f"it is a checkpoint in shards ({FOLDER}, of save_async or SHARDED_STATE_DICT), which training alone goes on from: "
        f"`hone export model_name_or_path={place} export_dir=FOLDER` makes an ordinary model of it"
    )
