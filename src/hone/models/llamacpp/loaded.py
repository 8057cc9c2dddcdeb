"""Loaded: one file in llama.cpp's process: its ids, its logits, its adapters, the importance of its inputs.

Does not know orders, nor hone's settings; it is given the library.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from hone.models.llamacpp.squares import Squares

_WINDOW = 512
"""Tokens that go through the model at once."""


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
        squares = Squares(self.lib)
        self._drop()
        self._watch = squares.watch
        try:
            for ids in texts:
                self.logits(ids, True)
        finally:
            self._drop()
            self._watch = None
        return squares.means()
