"""Sharded safetensors written tensor after tensor: the header first, then rows as they come.

Does not know where the rows come from. The safetensors package can only write what is whole in memory, hence this file.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from hone.export.source import DTYPES


@dataclass(frozen=True)
class Slot:
    """A tensor to be written. dtype: safetensors' name of the number format."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def num_bytes(self) -> int:
        """Its size in the file."""
        return torch.Size(self.shape).numel() * DTYPES[self.dtype].itemsize


@dataclass(frozen=True)
class Written:
    """What now lies in the folder."""

    files: tuple[str, ...]
    num_bytes: int
    num_tensors: int


@dataclass(frozen=True)
class Product:
    """A model that was written. method: how it was merged; file: of a model that is one file; notes: what the user must know.

    warnings: what makes the result doubtful, or other than was asked for.
    """

    written: Written
    method: str
    file: Path | None = None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def shards_of(slots: list[Slot], shard_bytes: int) -> list[list[Slot]]:
    """The slots in order, cut into files of at most `shard_bytes`; a larger tensor gets a file of its own."""
    shards: list[list[Slot]] = [[]]
    used = 0
    for slot in slots:
        if shards[-1] and used + slot.num_bytes > shard_bytes:
            shards.append([])
            used = 0
        shards[-1].append(slot)
        used += slot.num_bytes
    return shards


def header_of(slots: list[Slot]) -> bytes:
    """The file's first bytes: length, then JSON padded with blanks to a multiple of 8."""
    head: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for slot in slots:
        head[slot.name] = {"dtype": slot.dtype, "shape": list(slot.shape), "data_offsets": [offset, offset + slot.num_bytes]}
        offset += slot.num_bytes
    text = json.dumps(head, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _write_shard(file: Path, slots: list[Slot], rows: Callable[[Slot], Iterable[torch.Tensor]]) -> None:
    # Wide numbers first, so that each tensor starts at a multiple of its own width whatever precedes it.
    slots = sorted(slots, key=lambda slot: -DTYPES[slot.dtype].itemsize)
    with file.open("wb") as out:
        out.write(header_of(slots))
        for slot in slots:
            start = out.tell()
            for block in rows(slot):
                assert block.dtype == DTYPES[slot.dtype], f"{slot.name}: {block.dtype} for {slot.dtype}"
                out.write(memoryview(block.contiguous().reshape(-1).view(torch.uint8).numpy()))
            assert out.tell() - start == slot.num_bytes, f"{slot.name}: {out.tell() - start} bytes for {slot.num_bytes}"
        out.flush()
        os.fsync(out.fileno())


def write_tensors(
    folder: Path, slots: list[Slot], rows: Callable[[Slot], Iterable[torch.Tensor]], *, shard_bytes: int
) -> Written:
    """Write `slots` into `folder` as model.safetensors, or model-0000k-of-0000n.safetensors with their index.

    rows: the blocks of one slot along its first axis, in order, in the slot's number format, on the CPU.
    Raises: OSError where the disk is full; what is half written is the caller's to remove.
    """
    shards = shards_of(slots, shard_bytes)
    names = [f"model-{k:05d}-of-{len(shards):05d}.safetensors" for k in range(1, len(shards) + 1)]
    if len(shards) == 1:
        names = ["model.safetensors"]
    total = sum(slot.num_bytes for slot in slots)
    for name, shard in zip(names, shards, strict=True):
        _write_shard(folder / name, shard, rows)
    if len(shards) > 1:
        weight_map = {slot.name: name for name, shard in zip(names, shards, strict=True) for slot in shard}
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return Written(tuple(names), total, len(slots))
