"""The process in which llama.cpp's library runs: it reads orders from its standard input and answers on its standard output.

Does not know hone's settings, conversations or torch. One order is a line of JSON, with the numbers it names behind it as bytes;
so is one answer. A fault of the library ends this process alone, and `hone.models.llamacpp` says so.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import sys
from collections import deque
from typing import Any, BinaryIO

import numpy as np

_WINDOW = 512
"""Tokens that go through the model at once."""
_LINES = 40
_QUANTIZED_SIZE = re.compile(r"quant size\s*=\s*([0-9.]+) MiB")


def main() -> None:
    """Serve orders until the input ends."""
    orders, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the library prints is no answer
    try:
        desk = Desk()
    except ModuleNotFoundError as fault:
        send(answers, {"missing": str(fault)})
        return
    send(answers, {"value": "ready"})
    while (order := receive(orders)) is not None:
        try:
            value = getattr(desk, f"do_{order.pop('do')}")(**order)
            send(answers, *value if isinstance(value, tuple) else ({"value": value},))
        except Exception as fault:
            desk.logged.append(f"{type(fault).__name__}: {fault}")
            send(answers, {"fault": list(desk.logged)})


def send(pipe: BinaryIO, head: dict[str, Any], *arrays: np.ndarray) -> None:
    """One order or answer; the arrays' names, shapes and number formats are in its head."""
    head = head | {"arrays": [[str(one.dtype), list(one.shape)] for one in arrays]}
    pipe.write(json.dumps(head).encode() + b"\n")
    for one in arrays:
        pipe.write(np.ascontiguousarray(one).tobytes())
    pipe.flush()


def receive(pipe: BinaryIO) -> dict[str, Any] | None:
    """What `send` has sent, its arrays under "arrays"; None where the other side has gone."""
    line = pipe.readline()
    if not line.endswith(b"\n"):
        return None
    head = json.loads(line)
    arrays = []
    for dtype, shape in head.pop("arrays"):
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        data = pipe.read(size)
        if len(data) != size:
            return None
        arrays.append(np.frombuffer(data, dtype=dtype).reshape(shape))
    return head | ({"arrays": arrays} if arrays else {})


class Desk:
    """Carries out orders: each `do_NAME` is one. logged: the library's last warnings and errors."""

    def __init__(self) -> None:
        import llama_cpp

        self.lib: Any = llama_cpp
        self.logged: deque[str] = deque(maxlen=_LINES)
        self.quantized_mebibytes = 0.0

        def hear(level: int, text: bytes, _: Any) -> None:
            line = text.decode("utf-8", "replace").strip()
            if level in (3, 4) and line:  # warnings and errors
                self.logged.append(line)
            if found := _QUANTIZED_SIZE.search(line):
                self.quantized_mebibytes = float(found[1])

        self._hear = llama_cpp.llama_log_callback(hear)  # kept: the library holds its address alone
        llama_cpp.llama_log_set(self._hear, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        self.models: list[Loaded | None] = []

    def do_load(self, path: str, exact: bool, threads: int, vocabulary_only: bool) -> dict[str, Any]:
        """Open a file; what it is. exact: keys and values in fp32, as they are computed."""
        self.logged.clear()
        model = Loaded(self.lib, path, exact=exact, threads=threads, vocabulary_only=vocabulary_only)
        self.models.append(model)
        return {"number": len(self.models) - 1, "tokens": model.tokens, "limit": model.limit, "about": model.about}

    def do_close(self, number: int) -> None:
        """Let a file go."""
        model, self.models[number] = self.models[number], None
        model.close()

    def do_adapter(self, number: int, path: str) -> None:
        """Put a LoRA adapter beside a model."""
        self.models[number].adapt(path)

    def do_tokenize(self, number: int, text: str, whole: bool) -> list[int]:
        """Ids of a text in which control tokens are read as such. whole: with what the file says stands around a text."""
        return self.models[number].tokenize(text.encode(), whole)

    def do_logits(self, number: int, ids: list[int], all: bool) -> tuple[dict, np.ndarray]:
        """fp32 [T, V] behind every id, or [1, V] behind the last."""
        return {}, self.models[number].logits(ids, all)

    def do_quantize(
        self,
        source: str,
        target: str,
        kind: int,
        threads: int,
        names: list[str],
        arrays: list[np.ndarray] | None = None,
        dry: bool = False,
    ) -> float:
        """Write `source` again in another number format, or only reckon (dry); MiB of the result's weights.

        arrays: the importance of each input, by tensor names.
        """
        lib, given = self.lib, [np.ascontiguousarray(one, np.float32) for one in arrays or ()]
        settings = lib.llama_model_quantize_default_params()
        settings.ftype, settings.nthread, settings.allow_requantize, settings.dry_run = kind, threads, False, dry
        rows = (lib.llama_model_imatrix_data * (len(names) + 1))()
        pointer = ctypes.POINTER(ctypes.c_float)
        for row, name, one in zip(rows, names, given, strict=False):
            row.name, row.data, row.size = name.encode(), one.ctypes.data_as(pointer), one.size
        if names:
            settings.imatrix = ctypes.cast(rows, type(settings.imatrix))
        self.logged.clear()
        if lib.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(settings)) != 0:
            raise RuntimeError("llama_model_quantize failed")
        return self.quantized_mebibytes

    def do_importance(self, number: int, texts: list[list[int]]) -> tuple[dict, ...]:
        """How large the inputs of each weight are, over `texts`: mean squares, by tensor name."""
        found = self.models[number].importance(texts)
        return {"names": list(found)}, *found.values()


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


class Loaded:
    """One file and the keys and values of the ids it has read last."""

    def __init__(self, lib: Any, path: str, *, exact: bool, threads: int, vocabulary_only: bool):
        self.lib, self._exact, self._threads = lib, exact, threads
        settings = lib.llama_model_default_params()
        settings.vocab_only = vocabulary_only
        # Weights repacked for AMX: gcc 12 compiles their set-up so that the first product ends the process (llama.cpp of 2026).
        settings.use_extra_bufts = False
        settings.n_gpu_layers = 0 if exact else -1
        self.model = lib.llama_model_load_from_file(path.encode(), settings)
        if not self.model:
            raise RuntimeError(f"{path} cannot be loaded")
        self.vocabulary = lib.llama_model_get_vocab(self.model)
        self.tokens: int = lib.llama_vocab_n_tokens(self.vocabulary)
        self.limit: int = lib.llama_model_n_ctx_train(self.model)
        self.about = {key: self._said(key) for key in ("general.architecture", "general.file_type", "tokenizer.chat_template")}
        self._context: Any = None
        self._size, self._read, self._adapters = 0, [], []
        self._watch: Any = None

    def _said(self, key: str) -> str | None:
        buffer = ctypes.create_string_buffer(2**20)
        length = self.lib.llama_model_meta_val_str(self.model, key.encode(), buffer, len(buffer))
        return None if length < 0 else buffer.value.decode("utf-8", "replace")

    def close(self) -> None:
        """Free its memory."""
        self._drop()
        self.lib.llama_model_free(self.model)

    def adapt(self, path: str) -> None:
        """Put a LoRA adapter beside the weights, with its own scale."""
        adapter = self.lib.llama_adapter_lora_init(self.model, path.encode())
        if not adapter:
            raise RuntimeError(f"{path} cannot be loaded as an adapter of this model")
        self._adapters.append(adapter)
        self._drop()

    def tokenize(self, text: bytes, whole: bool) -> list[int]:
        """Its ids."""
        room = len(text) + 8
        ids = (ctypes.c_int32 * room)()
        count = self.lib.llama_tokenize(self.vocabulary, text, len(text), ids, room, whole, True)
        if count < 0:
            raise RuntimeError(f"a text of {len(text)} bytes has more ids than bytes")
        return list(ids[:count])

    def logits(self, ids: list[int], all: bool) -> np.ndarray:
        """Read `ids`, of which what was read before is kept, and give what stands behind all of them or behind the last."""
        self._make_room(len(ids))
        start = 0
        while not all and start < min(len(self._read), len(ids) - 1) and self._read[start] == ids[start]:
            start += 1
        memory = self.lib.llama_get_memory(self._context)
        if not self.lib.llama_memory_seq_rm(memory, 0, start, -1):
            self.lib.llama_memory_clear(memory, True)
            start = 0
        self._read = []
        parts = [self._decode(ids[at : at + _WINDOW], at, all, len(ids)) for at in range(start, len(ids), _WINDOW)]
        self._read = list(ids)
        return np.concatenate(parts) if all else parts[-1]

    def _decode(self, ids: list[int], start: int, all: bool, end: int) -> np.ndarray:
        lib, batch = self.lib, self._batch
        batch.n_tokens = len(ids)
        wanted = [place for place in range(len(ids)) if all or start + place == end - 1]
        for place, token in enumerate(ids):
            batch.token[place], batch.pos[place] = token, start + place
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
            batch.logits[place] = place in wanted[-1:] or all
        if (code := lib.llama_decode(self._context, batch)) != 0:
            raise RuntimeError(f"llama_decode gave {code}")
        rows = [np.ctypeslib.as_array(lib.llama_get_logits_ith(self._context, place), (self.tokens,)) for place in wanted]
        return np.stack(rows) if rows else np.empty((0, self.tokens), np.float32)

    def _make_room(self, length: int) -> None:
        """A context for texts of `length`, made anew where the last one was too small."""
        if self._context is not None and length <= self._size:
            return
        self._drop()
        lib, size = self.lib, 1024
        while size < length:
            size *= 2
        settings = lib.llama_context_default_params()
        settings.n_ctx, settings.n_batch, settings.n_ubatch, settings.n_seq_max = size, _WINDOW, _WINDOW, 1
        settings.n_threads = settings.n_threads_batch = self._threads
        if self._exact:
            settings.type_k = settings.type_v = 0  # fp32, where the library would round to 16 bits
            settings.flash_attn_type = 0
        if self._watch is not None:
            settings.cb_eval = self._watch
        self._context = lib.llama_init_from_model(self.model, settings)
        if not self._context:
            raise RuntimeError(f"no context of {size} tokens can be made")
        self._batch, self._size = lib.llama_batch_init(_WINDOW, 0, 1), size
        if self._adapters:
            kind = type(self._adapters[0]) if not isinstance(self._adapters[0], int) else ctypes.c_void_p
            beside = (kind * len(self._adapters))(*self._adapters)
            scales = (ctypes.c_float * len(self._adapters))(*[1.0] * len(self._adapters))
            lib.llama_set_adapters_lora(self._context, beside, len(self._adapters), scales)

    def _drop(self) -> None:
        if self._context is not None:
            self.lib.llama_batch_free(self._batch)
            self.lib.llama_free(self._context)
        self._context, self._size, self._read = None, 0, []

    def importance(self, texts: list[list[int]]) -> dict[str, np.ndarray]:
        """Mean squares of what each weight is multiplied with: fp32 [experts * inputs] by the weight's name."""
        sums: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        name_of = self.lib.llama_cpp._lib.ggml_op_name
        name_of.restype, name_of.argtypes = ctypes.c_char_p, [ctypes.c_int]

        def watch(address: int, ask: bool, _: Any) -> bool:
            node = ctypes.cast(address, ctypes.POINTER(_Tensor)).contents
            wanted = name_of(node.op) in (b"MUL_MAT", b"MUL_MAT_ID") and node.src[0].contents.name.endswith(b".weight")
            if wanted and not ask:
                _add_squares(sums, node)
            return wanted if ask else True

        self._drop()
        self._watch = self.lib.llama_cpp.ggml_backend_sched_eval_callback(watch)
        try:
            for ids in texts:
                self.logits(ids, True)
        finally:
            self._drop()
            self._watch = None
        return {
            name: (squares / np.maximum(counts, 1)[:, None]).astype(np.float32).ravel()
            for name, (squares, counts) in sums.items()
            if counts.any()
        }


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


if __name__ == "__main__":
    main()
