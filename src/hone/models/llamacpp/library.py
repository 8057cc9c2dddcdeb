"""LlamaCpp: llama.cpp's library in a process of its own, which loads GGUF files, reads token ids and writes other number formats.

Does not know conversations, nor how a GGUF file is made. A fault that ends the library's process is a ModelError here.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hone.errors import MissingExtra, ModelError
from hone.models.llamacpp.pipe import receive, send

EXTRA = "gguf"
"""hone's extra that brings the library and the package `gguf`."""


class LlamaCpp:
    """`with LlamaCpp("parity of a GGUF file") as library: model = library.load(path)`; may be used from several threads, in turn.

    why: what needs it, for the error where it is not installed. Raises: MissingExtra, ModelError.
    """

    def __init__(self, why: str):
        self._turn = threading.Lock()
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  it lives as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", "hone.models.llamacpp.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
        )
        first = receive(self._process.stdout)
        if first is None:
            raise ModelError(self._end())
        if "missing" in first:
            self.close()
            raise MissingExtra("llama-cpp-python", EXTRA, why)

    def __enter__(self) -> LlamaCpp:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()
        self._said.close()

    def load(self, path: Path, *, exact: bool = False, vocabulary_only: bool = False) -> GgufModel:
        """Open a GGUF file. exact: keys and values are kept in fp32, on the CPU, as parity wants; else in 16 bits."""
        threads = torch.get_num_threads()
        said = self.order("load", path=str(path), exact=exact, threads=threads, vocabulary_only=vocabulary_only)["value"]
        return GgufModel(self, Path(path), said["number"], said["tokens"], said["limit"], said["about"])

    def quantize(self, source: Path, target: Path, kind: int, importance: Mapping[str, np.ndarray]) -> None:
        """Write `source` again in the number format `kind` (llama.cpp's llama_ftype). importance: see GgufModel.importance."""
        names, threads = list(importance), torch.get_num_threads()
        order = {"source": str(source), "target": str(target), "kind": kind, "threads": threads, "names": names}
        self.order("quantize", *importance.values(), **order)

    def planned_bytes(self, source: Path, kind: int) -> int:
        """What the weights of `source` would take in the number format `kind`; nothing is written, and no weight is read."""
        order = {"source": str(source), "target": "none", "kind": kind, "threads": 1, "names": [], "dry": True}
        return round(self.order("quantize", **order)["value"] * 2**20)

    def order(self, do: str, *arrays: np.ndarray, **named: Any) -> dict[str, Any]:
        """One order to the process and its answer."""
        with self._turn:
            try:
                send(self._process.stdin, {"do": do, **named}, *arrays)
                answer = receive(self._process.stdout)
            except (BrokenPipeError, ValueError):
                answer = None
        if answer is None:
            raise ModelError(self._end())
        if "fault" in answer:
            raise ModelError("llama.cpp: " + "; ".join(answer["fault"][-4:]))
        return answer

    def _end(self) -> str:
        code = self._process.wait()
        self._said.seek(0)
        lines = self._said.read().decode("utf-8", "replace").strip().splitlines()[-6:]
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        return f"the process of llama.cpp {how}: {' '.join(lines) or 'it said nothing'}"


@dataclass(frozen=True)
class GgufModel:
    """An open GGUF file. tokens: V, the width of its logits; limit: the longest text it was trained on; about: its metadata."""

    library: LlamaCpp
    path: Path
    number: int
    tokens: int
    limit: int
    about: dict[str, str | None]

    def tokenize(self, text: str, *, whole: bool = False) -> list[int]:
        """Ids by the file's own tokenizer, control tokens read as such. whole: with bos where the file says so."""
        return self.library.order("tokenize", number=self.number, text=text, whole=whole)["value"]

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """fp32 [T, V] behind each of `ids`."""
        return self._logits(ids, True)

    def next_logits(self, ids: Sequence[int]) -> np.ndarray:
        """fp32 [V] behind the last of `ids`; what it shares with the ids read last is not computed again."""
        return self._logits(ids, False)[0]

    def _logits(self, ids: Sequence[int], all: bool) -> np.ndarray:
        return self.library.order("logits", number=self.number, ids=[int(id) for id in ids], all=all)["arrays"][0]

    def importance(self, texts: Sequence[Sequence[int]]) -> dict[str, np.ndarray]:
        """Mean squares of what each weight is multiplied with over `texts`, by tensor name: an importance matrix."""
        ids = [[int(id) for id in text] for text in texts]
        answer = self.library.order("importance", number=self.number, texts=ids)
        return dict(zip(answer["names"], answer["arrays"], strict=True))

    def add_adapter(self, path: Path) -> None:
        """Put a LoRA adapter in GGUF beside the weights."""
        self.library.order("adapter", number=self.number, path=str(path))

    def close(self) -> None:
        """Let its memory go."""
        self.library.order("close", number=self.number)
