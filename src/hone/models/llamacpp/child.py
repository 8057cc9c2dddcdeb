"""The process in which llama.cpp's library runs: it reads orders from its standard input and answers on its standard output.

Does not know hone's settings, conversations or torch. A fault of the library ends this process alone, and `library`
says so.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections import deque
from typing import Any

import numpy as np

from hone.models.llamacpp.loaded import Loaded
from hone.models.llamacpp.pipe import receive, send

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


if __name__ == "__main__":
    main()
