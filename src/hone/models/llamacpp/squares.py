"""Squares: how large the inputs of each weight are while llama.cpp computes, seen in its own products.

Does not know the file nor the texts; it is given the library, and hands it a function that looks at each product.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np


class _Tensor(ctypes.Structure):
    """The beginning of ggml.h's `struct ggml_tensor`, as gguf files of 2024 to 2026 are computed with."""


_Tensor._fields_ = [
    ("type", ctypes.c_int),
    ("buffer", ctypes.c_void_p),
    ("ne", ctypes.c_int64 * 4),
    ("nb", ctypes.c_size_t * 4),
    ("op", ctypes.c_int),
    ("op_params", ctypes.c_int32 * 16),
    ("flags", ctypes.c_int32),
    ("src", ctypes.POINTER(_Tensor) * 10),
    ("view_src", ctypes.c_void_p),
    ("view_offs", ctypes.c_size_t),
    ("data", ctypes.c_void_p),
    ("name", ctypes.c_char * 64),
]


class Squares:
    """`watch` is llama.cpp's callback of an evaluation; `means` what it has seen: fp32 [experts * inputs] by weights' names."""

    def __init__(self, lib: Any):
        self._sums: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._name_of = lib.llama_cpp._lib.ggml_op_name
        self._name_of.restype, self._name_of.argtypes = ctypes.c_char_p, [ctypes.c_int]
        self.watch = lib.llama_cpp.ggml_backend_sched_eval_callback(self._look)  # the library holds its address alone

    def means(self) -> dict[str, np.ndarray]:
        """Of those weights that were multiplied."""
        return {
            name: (squares / np.maximum(counts, 1)[:, None]).astype(np.float32).ravel()
            for name, (squares, counts) in self._sums.items()
            if counts.any()
        }

    def _look(self, address: int, ask: bool, _: Any) -> bool:
        node = ctypes.cast(address, ctypes.POINTER(_Tensor)).contents
        wanted = self._name_of(node.op) in (b"MUL_MAT", b"MUL_MAT_ID") and node.src[0].contents.name.endswith(b".weight")
        if wanted and not ask:
            _add_squares(self._sums, node)
        return wanted if ask else True


def _add_squares(sums: dict[str, tuple[np.ndarray, np.ndarray]], node: _Tensor) -> None:
    """The inputs of one product, of experts by the expert that each was sent to. Axes: matrix M, token T, input D."""
    weight, given = node.src[0].contents, node.src[1].contents
    if given.type != 0 or not given.data:
        return
    matrices, width = max(1, weight.ne[2] * weight.ne[3]), given.ne[0]
    squares_MD, counts_M = sums.setdefault(weight.name.decode(), (np.zeros((matrices, width)), np.zeros(matrices)))
    values = _view(given, np.float32)
    if not node.src[2]:  # MUL_MAT
        rows_MTD = np.square(values.reshape(-1, *values.shape[2:]), dtype=np.float64)
        if len(rows_MTD) == matrices:
            squares_MD += rows_MTD.sum(1)
            counts_M += rows_MTD.shape[1]
        else:
            squares_MD += rows_MTD.sum((0, 1))
            counts_M += rows_MTD.shape[0] * rows_MTD.shape[1]
        return
    chosen = _view(node.src[2].contents, np.int32)[0, 0]  # [T, experts of a token]
    for token, experts in enumerate(chosen):
        for place, expert in enumerate(experts):
            row_D = values[0, token, place % values.shape[2]]
            squares_MD[expert] += np.square(row_D, dtype=np.float64)
            counts_M[expert] += 1


def _view(tensor: _Tensor, dtype: Any) -> np.ndarray:
    """Its numbers, the outermost axis first."""
    shape, strides = tuple(tensor.ne)[::-1], tuple(tensor.nb)[::-1]
    size = sum((count - 1) * step for count, step in zip(shape, strides, strict=True)) + np.dtype(dtype).itemsize
    data = (ctypes.c_char * size).from_address(tensor.data)
    return np.ndarray(shape, dtype, data, strides=strides)
