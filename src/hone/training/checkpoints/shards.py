"""Shards: weights and moments as they lie on the processes, to a folder and back, by torch.distributed.checkpoint.

Does not know the engine: tensors in shards or whole ones, on any number of processes, are read back as any others.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn

from hone.config.shards import FOLDER as FOLDER
from hone.errors import CheckpointError
from hone.training.engines.moments import GROUPS, MOMENTS

_WEIGHT, _MOMENT = "weights/", "moments/"
_REFUSED = (dcp.CheckpointException, OSError, RuntimeError, ValueError, KeyError)
"""How torch tells of a folder that cannot be written or read."""

warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized", category=UserWarning)


class Writing:
    """A save that is under way; `wait` on every process."""

    def __init__(self, done: Future[Any] | None):
        self._done = done

    def wait(self) -> None:
        """Return when all processes have written; CheckpointError where one could not."""
        if self._done is not None:
            with _told("shards could not be saved"):
                self._done.result()


class _told:
    """Turns torch's errors into a CheckpointError."""

    def __init__(self, what: str):
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, _REFUSED) and not isinstance(error, CheckpointError):
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise CheckpointError(f"{self._what}: {lines[-1]}") from error


def write(
    weights: dict[str, Tensor], state: dict[str, Any], folder: Path, *, group: Any, alone: bool, background: bool
) -> Writing:
    """Begin to write; every process calls it. state: as of `moments`, tensors as they lie here, {} for none.

    background: a copy in host memory is written while this process goes on. group: of the processes, one that nothing else uses
    then; None for that of all. alone: where there is one.
    """
    tensors = {_WEIGHT + name: weight.detach() for name, weight in weights.items()}
    for name, values in state.get(MOMENTS, {}).items():
        for key, value in values.items():
            tensors[f"{_MOMENT}{name}/{key}"] = value if isinstance(value, Tensor) else torch.tensor(value)
    files = dcp.FileSystemWriter(folder, single_file_per_rank=True, sync_files=True)
    with _told("shards could not be saved"):
        if background:
            return Writing(dcp.async_save(tensors, storage_writer=files, process_group=group, no_dist=alone))
        dcp.save(tensors, storage_writer=files, process_group=group, no_dist=alone)
    return Writing(None)


def read_weights(folder: Path, weights: dict[str, nn.Parameter]) -> None:
    """Into the weights, where they lie; every process calls it. CheckpointError where some are not there or do not fit."""
    _load(folder, {_WEIGHT + name: weight.detach() for name, weight in weights.items()})


def read_moments(folder: Path, weights: dict[str, nn.Parameter], learned: Iterable[str]) -> dict[str, Any]:
    """The optimizer's state of the weights named `learned`, each tensor lying as its weight does; every process calls it.

    Raises CheckpointError where there is none.
    """
    found: dict[str, dict[str, Tensor]] = {}
    for place, about in _about(folder).items():
        if place.startswith(_MOMENT):
            name, _, key = place.removeprefix(_MOMENT).rpartition("/")
            if name not in weights:
                raise CheckpointError(f"{folder} holds the optimizer's state of {name}, which does not learn now")
            kind = about.properties.dtype
            alike = tuple(about.size) == tuple(weights[name].shape)
            new = torch.zeros_like(weights[name].detach(), dtype=kind) if alike else torch.zeros(tuple(about.size), dtype=kind)
            found.setdefault(name, {})[key] = new
    if not found:
        raise CheckpointError(f"{folder} holds no state of the optimizer: it was saved with save_only_model: true")
    _load(folder, {f"{_MOMENT}{name}/{key}": value for name, values in found.items() for key, value in values.items()})
    return {MOMENTS: found, GROUPS: [{"params": list(learned)}]}


def has_moments(folder: Path) -> bool:
    """Whether the optimizer's state was written too."""
    return any(place.startswith(_MOMENT) for place in _about(folder))


def _about(folder: Path) -> dict[str, Any]:
    with _told(f"{folder} cannot be read"):
        return dcp.FileSystemReader(folder).read_metadata().state_dict_metadata


def _load(folder: Path, tensors: dict[str, Tensor]) -> None:
    with _told(f"{folder} does not fit this model"):
        dcp.load(tensors, storage_reader=dcp.FileSystemReader(folder), no_dist=not dist.is_initialized())
