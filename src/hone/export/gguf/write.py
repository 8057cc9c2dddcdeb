"""A GGUF file written tensor after tensor, in the number formats that numpy can make.

Does not know models; what it is told, it writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hone.errors import ExportError
from hone.export.gguf.families import Value
from hone.export.gguf.package import load_gguf
from hone.export.gguf.tensors import Made

_EXACT = ("ffn_gate_inp.weight",)
"""Ends of names of weights that stay in fp32: of routers, a coarse one of which sends tokens to other experts."""
_LARGEST_F16 = 65504.0


def write_gguf(
    file: Path, architecture: str, settings: Mapping[str, Value], made: Sequence[Made], *, plain: str, number: int, device: str
) -> None:
    """Write `file`. plain: gguf's name of the number format of weights; what has one axis, and routers, stay in fp32.

    number: llama.cpp's for the file's format. A weight whose rows a format's blocks do not divide is written in F16, as llama.cpp
    does. Raises: OSError.
    """
    gguf = load_gguf()
    writer = gguf.GGUFWriter(file, architecture)
    try:
        writer.add_file_type(number)
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        for key, value in settings.items():
            add_value(writer, key, value)
        for one in made:
            kind = type_of(one, plain)
            writer.add_tensor_info(one.name, one.shape, np.dtype(np.float32), bytes_of(one, plain), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        (out,) = writer.fout
        for one in made:
            _write_rows(writer, out, one, type_of(one, plain), device)
    finally:
        writer.close()


def _write_rows(writer: Any, out: Any, made: Made, kind: Any, device: str) -> None:
    gguf = load_gguf()
    writer.write_padding(out, out.tell())
    start, num_elements = out.tell(), 0
    for block in made.rows(device):
        num_elements += block.numel()
        if kind.name == "F16" and not bool((block.abs() <= _LARGEST_F16).all()):
            raise ExportError(f"{made.name} holds numbers too large for 16-bit floats: write gguf_type: bf16, or another")
        out.write(gguf.quants.quantize(block.numpy(), kind).tobytes())
    assert num_elements == int(np.prod(made.shape)), f"{made.name}: {num_elements} numbers for {made.shape}"
    writer.write_padding(out, out.tell() - start)


def bytes_of(made: Made, plain: str) -> int:
    """Its size in a file whose weights are in `plain`."""
    block, size = load_gguf().GGML_QUANT_SIZES[type_of(made, plain)]
    return int(np.prod(made.shape)) // block * size


def type_of(made: Made, plain: str) -> Any:
    """gguf's type of it in a file whose weights are in `plain`."""
    types = load_gguf().GGMLQuantizationType
    if len(made.shape) == 1 or made.name.endswith(_EXACT):
        return types.F32
    block, _ = load_gguf().GGML_QUANT_SIZES[types[plain]]
    return types[plain] if made.shape[-1] % block == 0 else types.F16


def add_value(writer: Any, key: str, value: Value) -> None:
    """One setting, in the type that llama.cpp reads: whole numbers without a sign (in lists with one), real ones of 32 bits."""
    types = load_gguf().GGUFValueType
    kinds = {bool: types.BOOL, int: types.UINT32, float: types.FLOAT32, str: types.STRING}
    if isinstance(value, list):
        inner = types.INT32 if type(value[0]) is int else kinds[type(value[0])]
        writer.add_key_value(key, value, types.ARRAY, sub_type=inner)
    else:
        writer.add_key_value(key, value, kinds[type(value)])
