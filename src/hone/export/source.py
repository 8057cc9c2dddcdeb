"""A base checkpoint as it lies on disk: which tensors, of which shape and number format, in which safetensors file.

Does not know adapters, and never holds more of a tensor than the rows it is asked for.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from hone.errors import ExportError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""safetensors' names of the number formats that are copied or merged; any other is a quantized base."""

_SIZES = {**{code: dtype.itemsize for code, dtype in DTYPES.items()}, "F8_E4M3": 1, "U32": 4}
"""Bytes of one number, also of those that exports in few bits hold."""


def torch_name(code: str) -> str:
    """torch's and the settings' name of a number format ("bfloat16" for "BF16")."""
    return str(DTYPES[code]).removeprefix("torch.")


@dataclass(frozen=True)
class Stored:
    """One tensor in one file. dtype: safetensors' name of the number format ("F32", "BF16")."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def num_elements(self) -> int:
        """How many numbers it holds."""
        return torch.Size(self.shape).numel()

    @property
    def num_bytes(self) -> int:
        """Its size in the file."""
        return self.num_elements * _SIZES[self.dtype]


def read_json(file: Path) -> dict[str, Any]:
    """The object a JSON file holds. Raises: ExportError with the line of the fault."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ExportError(f"{file} does not exist") from None
    except json.JSONDecodeError as fault:
        raise ExportError(f"{file}:{fault.lineno}: not JSON: {fault.msg}") from None


def stored_tensors(file: Path) -> dict[str, Stored]:
    """Every tensor of one safetensors file by name; reads the header alone. Raises: ExportError where it is damaged."""
    tensors = {}
    try:
        with safe_open(file, framework="pt") as handle:
            for name in handle.keys():  # noqa: SIM118  a handle is not a mapping
                part = handle.get_slice(name)
                tensors[name] = Stored(file, name, tuple(part.get_shape()), part.get_dtype())
    except (SafetensorError, OSError) as fault:
        raise ExportError(f"{file} cannot be read as safetensors: {fault}. Copy or download it again.") from None
    return tensors


def checkpoint_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder in the order of its index; empty where it has none.

    Raises: ExportError where the index names a file that is not there.
    """
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        single = folder / "model.safetensors"
        return [single] if single.is_file() else []
    files = [folder / name for name in sorted(set(read_json(index)["weight_map"].values()))]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise ExportError(f"{index} names files that are not there: {', '.join(missing)}. Copy or download the model again.")
    return files


def read_checkpoint(folder: Path) -> dict[str, Stored]:
    """Every tensor of a model folder, in file order; empty where the folder has no safetensors.

    Raises: ExportError where the base is quantized: what is merged into such weights is lost in their rounding.
    """
    if "quantization_config" in read_json(folder / "config.json"):
        raise ExportError(
            f"{folder} holds quantized weights, and an adapter cannot be merged into those without loss. "
            "Write the original, unquantized model as model_name_or_path."
        )
    tensors = all_tensors(folder)
    strange = sorted({tensor.dtype for tensor in tensors.values()} - set(DTYPES))
    if strange:
        raise ExportError(
            f"{folder} holds tensors of type {', '.join(strange)}, which is a quantized model; write the original one."
        )
    return tensors


def all_tensors(folder: Path) -> dict[str, Stored]:
    """Every tensor of a model folder, in file order, whatever its number format."""
    return {name: tensor for file in checkpoint_files(folder) for name, tensor in stored_tensors(file).items()}


def check_index(folder: Path, tensors: dict[str, Stored]) -> None:
    """Raise ExportError where the index of `folder` says another file of a tensor than the one that holds it."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return
    said = read_json(index)["weight_map"]
    held = {name: tensor.file.name for name, tensor in tensors.items()}
    wrong = sorted(name for name in said.keys() | held.keys() if said.get(name) != held.get(name))
    if wrong:
        first = wrong[0]
        raise ExportError(
            f"{index} is wrong for {len(wrong)} tensors: {first} is in {held.get(first, 'no file it names')}, "
            f"the index says {said.get(first, 'nothing')}"
        )


def main_dtype(tensors: dict[str, Stored]) -> str:
    """The floating number format of most of the elements ("BF16")."""
    counts: dict[str, int] = {}
    for tensor in tensors.values():
        if DTYPES[tensor.dtype].is_floating_point:
            counts[tensor.dtype] = counts.get(tensor.dtype, 0) + tensor.num_elements
    if not counts:
        raise ExportError("the base model has no floating-point tensor")
    return max(counts, key=lambda dtype: counts[dtype])


def read_rows(tensor: Stored, start: int, end: int) -> torch.Tensor:
    """Rows [start, end) of the first axis; the whole tensor where it has no axes.

    The file is opened anew each time, so that pages already used do not stay in the process's memory.
    """
    with safe_open(tensor.file, framework="pt") as handle:
        if not tensor.shape:
            return handle.get_tensor(tensor.name)
        return handle.get_slice(tensor.name)[start:end]


def read_columns(tensor: Stored, start: int, end: int) -> torch.Tensor:
    """Columns [start, end) of a matrix."""
    with safe_open(tensor.file, framework="pt") as handle:
        return handle.get_slice(tensor.name)[:, start:end]
