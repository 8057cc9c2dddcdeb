"""LlamaCppEngine: answers by llama.cpp for a GGUF file, one at a time; hone's codec writes the prompt and reads the answer.

Does not know how a GGUF file is made. Tokens are drawn here, from the logits, by the same rules as with transformers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from hone import log
from hone.chat.codec import Codec
from hone.config.chat import ChatConfig
from hone.config.model import ModelConfig
from hone.errors import ModelError
from hone.inference.adapters import Adapters, Held
from hone.inference.asked import Asked
from hone.inference.base import Answer, Request
from hone.inference.codec import load_codec
from hone.inference.hf import HfEngine
from hone.inference.rows import Row
from hone.inference.steering import Steer
from hone.models.llamacpp.library import GgufModel, LlamaCpp

_PROBES = ("Hello, world! It's 12345.\n", " \u4f60\u597d na\u00efve  \U0001f600")


class LlamaCppEngine(HfEngine):
    """An HfEngine whose logits come from llama.cpp. Steering, tools, stop texts and log-probs are the same."""

    def __init__(self, model: GgufModel, codec: Codec):
        self.model, self._adapters = model, Adapters(_none)
        self._begin(codec, limit=model.limit, size=model.tokens)

    def add_adapter(self, name: str, place: str) -> None:
        """None is taken in. Raises: ModelError."""
        raise ModelError(f"adapter {name!r}: none is put onto a GGUF file; merge it: hone export with export_format: gguf")

    def _ids(self, request: Request, asked: Asked, num_new: int, steer: Steer | None) -> Iterator[int]:
        if request.settings.num_beams > 1:
            raise ModelError("num_beams above 1: a beam search is not drawn with llama.cpp; write num_beams: 1")
        row = Row(asked, self._settings(request, num_new), seed=request.seed, steer=steer)
        with self._turn:
            while not row.done:
                row.draw(torch.from_numpy(self.model.next_logits(row.ids).copy()).unsqueeze(0))
                yield row.ids[-1]

    def generate_many(self, requests: Sequence[Request], *, batch_size: int = 1) -> list[Answer]:
        """Whole answers in the order of the requests, one after the other."""
        return [delta.answer for request in requests for delta in self.generate(request) if delta.answer is not None]


def _none() -> Held:
    raise AssertionError("add_adapter takes none in")


def find_gguf(model: ModelConfig, backend: str) -> Path | None:
    """The GGUF file that model_name_or_path names, itself or as the only one of a folder; None where transformers is to answer.

    Raises: ModelError where llama.cpp is asked for and there is no such file.
    """
    place = Path(model.model_name_or_path).expanduser()
    if place.suffix == ".gguf":
        if place.is_file():
            return place
        raise ModelError(f"model_name_or_path: there is no file {place}")
    files = sorted(place.glob("*.gguf")) if place.is_dir() else []
    if backend != "llamacpp" and ((place / "config.json").is_file() or not files):
        return None
    if len(files) != 1:
        seen = f"holds {len(files)} of them" if place.is_dir() else "is no folder here"
        raise ModelError(f"infer_backend: llamacpp runs one GGUF file, and {place} {seen}: name the file in model_name_or_path")
    return files[0]


def build_llamacpp_engine(model: ModelConfig, chat: ChatConfig, file: Path) -> LlamaCppEngine:
    """The engine of a GGUF file, with the tokenizer that lies beside it, as `hone export` writes it.

    Raises: ModelError where none does, or where it is not the file's own; MissingExtra.
    """
    beside = model.model_copy(update={"model_name_or_path": str(file.parent)})
    codec = load_codec(beside, chat)
    tokenizer = codec.tokenizer
    loaded = LlamaCpp(f"a GGUF file ({file.name})").load(file)
    if len(tokenizer) > loaded.tokens:
        raise ModelError(f"{file} has {loaded.tokens} tokens and the tokenizer beside it {len(tokenizer)}: it is another model's")
    other = [text for text in _PROBES if loaded.tokenize(text) != tokenizer(text, add_special_tokens=False)["input_ids"]]
    if other:
        log.once(f"note: the file's own tokenizer reads {other[0]!r} otherwise than the one beside it, which is used")
    return LlamaCppEngine(loaded, codec)
