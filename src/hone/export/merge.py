"""Merge LoRA adapters into a base checkpoint on disk, rows at a time: memory is bounded by a block, not by the model.

Does not know settings, tokenizers or whether the result is right: `parity` measures that.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from hone.errors import ExportError
from hone.export.lora import Addition
from hone.export.recipe import Recipe, Step
from hone.export.source import DTYPES, read_columns, read_rows
from hone.export.write import Slot, Written, write_tensors

BLOCK_BYTES = 64 * 2**20
"""Size of the rows held at once, counted in fp32."""


def merge(recipe: Recipe, folder: Path, *, shard_bytes: int, block_bytes: int = BLOCK_BYTES, device: str = "cpu") -> Written:
    """Write the merged tensors into `folder` as sharded safetensors.

    Each number is base + sum of scale * B @ A in fp32, rounded once to the format written. Peak memory: a few blocks of
    `block_bytes`, and one A matrix. Raises: ExportError where a rounded number is not finite; OSError where the disk is full.
    """
    steps = {step.slot.name: step for step in recipe.steps}

    def rows(slot: Slot) -> Iterator[Tensor]:
        return blocks(steps[slot.name], block_bytes=block_bytes, device=device)

    return write_tensors(folder, [step.slot for step in recipe.steps], rows, shard_bytes=shard_bytes)


def blocks(step: Step, *, block_bytes: int, device: str) -> Iterator[Tensor]:
    """The rows of one result, block by block, in its number format, on the CPU."""
    dtype = DTYPES[step.slot.dtype]
    length = step.slot.shape[0] if step.slot.shape else 1
    width = torch.Size(step.slot.shape[1:]).numel()
    height = max(1, block_bytes // max(1, 4 * width))
    small = [_small_factor(addition, step.transposed).to(device) for addition in step.additions]
    for start in range(0, length, height):
        end = min(start + height, length)
        block = read_rows(step.source, start, end)
        if step.additions:
            block = block.to(device, torch.float32)
            for addition, factor in zip(step.additions, small, strict=True):
                block += _delta_rows(addition, factor, start, end, transposed=step.transposed)
        rounded = block.to("cpu", dtype)
        if (step.additions or rounded.dtype != block.dtype) and not bool(torch.isfinite(rounded).all()):
            raise ExportError(_not_finite(step))
        yield rounded


def _small_factor(addition: Addition, transposed: bool) -> Tensor:
    """The factor that every block needs whole: A, or the transpose of B."""
    if transposed:
        return read_rows(addition.b, 0, addition.b.shape[0]).float().T
    return read_rows(addition.a, 0, addition.a.shape[0]).float()


def _delta_rows(addition: Addition, factor: Tensor, start: int, end: int, *, transposed: bool) -> Tensor:
    """Rows [start, end) of scale * B @ A, or of its transpose, in fp32."""
    part = read_columns(addition.a, start, end).T if transposed else read_rows(addition.b, start, end)
    return (part.to(factor.device, torch.float32) @ factor) * addition.scale


def _not_finite(step: Step) -> str:
    return (
        f"{step.slot.name} holds numbers that are not finite as {step.slot.dtype}. Where the adapter itself is sound, "
        "this format has too small a range: write infer_dtype: bfloat16 or float32."
    )
