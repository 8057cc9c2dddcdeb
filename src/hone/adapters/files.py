"""Files of adapters and models: modes that others may read, and tensors' shapes without their data.

Does not know what the tensors are for.
"""

from __future__ import annotations

import os
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from hone.errors import ModelError


def open_to_readers(folder: Path) -> None:
    """Give the folder's files the mode the umask says; safetensors 0.8 makes them 0600 whatever it is."""
    mask = os.umask(0)
    os.umask(mask)
    for path in folder.iterdir():
        if path.is_file():
            path.chmod(0o666 & ~mask)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a safetensors file, on the CPU; ModelError where it cannot be read."""
    try:
        return load_file(str(path))
    except (SafetensorError, OSError) as problem:
        raise ModelError(f"{path} cannot be read: {problem}") from problem


def shapes_of(path: Path) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor in a safetensors file; ModelError where it cannot be read."""
    try:
        with safe_open(str(path), framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as problem:
        raise ModelError(f"{path} cannot be read: {problem}") from problem
