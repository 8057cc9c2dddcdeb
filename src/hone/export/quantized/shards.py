"""Safetensors files filled tensor by tensor, of which neither number nor sizes are known before.

Does not know what is in them. One file's tensors are in memory at a time.
"""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from hone.errors import ExportError
from hone.export.write import Written


class Shards:
    """add() every tensor, then finish(). Raises: ExportError where the disk is full."""

    def __init__(self, folder: Path, shard_bytes: int):
        self._folder, self._limit = folder, shard_bytes
        self._held: dict[str, Tensor] = {}
        self._files: list[list[str]] = []
        self._num_bytes = self._held_bytes = 0

    def add(self, name: str, tensor: Tensor) -> None:
        """One tensor more, in the number format it is to have."""
        if self._held and self._held_bytes + tensor.nbytes > self._limit:
            self._write()
        self._held[name] = tensor.contiguous().cpu()
        self._held_bytes += tensor.nbytes
        self._num_bytes += tensor.nbytes

    def finish(self) -> Written:
        """Write what is left, name the files and write their index."""
        self._write()
        count = len(self._files)
        names = [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
        names = ["model.safetensors"] if count == 1 else names
        for number, name in enumerate(names):
            self._place(number).rename(self._folder / name)
        weight_map = {tensor: name for name, held in zip(names, self._files, strict=True) for tensor in held}
        if count > 1:
            index = {"metadata": {"total_size": self._num_bytes}, "weight_map": dict(sorted(weight_map.items()))}
            (self._folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        return Written(tuple(names), self._num_bytes, len(weight_map))

    def _place(self, number: int) -> Path:
        return self._folder / f".part-{number}"

    def _write(self) -> None:
        try:
            save_file(self._held, self._place(len(self._files)), metadata={"format": "pt"})
        except SafetensorError as fault:  # what a full disk is to safetensors
            raise ExportError(f"the weights cannot be written: {fault}") from fault
        self._files.append(list(self._held))
        self._held, self._held_bytes = {}, 0
