"""Embedder: vectors of texts by an embedding model, encoded and pooled as it was trained.

Does not know how it was trained, nor what the vectors are for.

Axes: S text, D width.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hone.adapters.apply import attach
from hone.adapters.folder import folders_of
from hone.chat.codec import Codec, build_codec
from hone.chat.encoded import Encoded
from hone.config.adapter import Adapter
from hone.config.chat import ChatConfig
from hone.config.model import ModelConfig
from hone.errors import ModelError
from hone.inference.build import choose_device, choose_dtype
from hone.inference.score import read_all
from hone.models.load import load_model
from hone.models.place import hub_name
from hone.models.policy import Policy
from hone.models.pooling import Pooling, pooled
from hone.models.tokenizer import load_tokenizer


@dataclass(frozen=True)
class Embedder:
    """`Embedder(policy, codec, "last").embed(["Why does bread rise?"], query=True)`; policy: in evaluation mode.

    query_prompt: what stands before every query.
    """

    policy: Policy
    codec: Codec
    pooling: Pooling
    query_prompt: str = ""

    @torch.inference_mode()
    def embed(self, texts: Sequence[str], *, query: bool = False) -> Tensor:
        """fp32 [S, D] on the CPU: a vector of length 1 for each text. query: they are queries, not texts that answer one.

        Raises: ModelError where a text is longer than the model can hold; TemplateError where it is not valid Unicode.
        """
        return self._vectors(self._encoded(texts, query))

    @torch.inference_mode()
    def embed_counted(self, texts: Sequence[str], *, query: bool = False) -> tuple[list[list[float]], int]:
        """The same as lists of numbers, and how many tokens were read."""
        encoded = self._encoded(texts, query)
        return self._vectors(encoded).tolist(), sum(map(len, encoded))

    def _encoded(self, texts: Sequence[str], query: bool) -> list[Encoded]:
        return self.codec.encode_plain([self.query_prompt + text if query else text for text in texts])

    def _vectors(self, encoded: list[Encoded]) -> Tensor:
        vectors_SD = read_all(self.policy, self.codec, encoded, lambda batch: pooled(self.policy, batch, self.pooling))
        return torch.nn.functional.normalize(vectors_SD, dim=-1)


def build_embedder(model: ModelConfig, adapter: Adapter, *, dtype: str = "auto", length: int | None = None) -> Embedder:
    """An embedder out of the settings; pooling and prompt are those that the last adapter's folder, or the model's, says.

    Raises: ModelError where neither is an embedding model, or something cannot be loaded or does not fit.
    """
    folders = [Path(model.model_name_or_path), *folders_of(adapter)]
    folder = next((one for one in reversed(folders) if (one / "1_Pooling" / "config.json").is_file()), None)
    if folder is None:
        raise ModelError(f"{model.model_name_or_path} is no embedding model: no 1_Pooling is there; train one with stage: embed")
    pooling = json.loads((folder / "1_Pooling" / "config.json").read_text(encoding="utf-8"))
    said = folder / "config_sentence_transformers.json"
    prompts = json.loads(said.read_text(encoding="utf-8")).get("prompts", {}) if said.is_file() else {}
    codec = build_codec(ChatConfig(template="empty"), load_tokenizer(model))
    module = load_model(model, dtype=choose_dtype(model, dtype), device=choose_device(), for_training=False, length=length)
    policy = Policy(attach(module, adapter, base_name=hub_name(model), trainable=False).eval(), 0.0)
    policy.self_test()
    return Embedder(policy, codec, _pooling_of(pooling, folder), prompts.get("query", ""))


def _pooling_of(said: dict[str, object], folder: Path) -> Pooling:
    if said.get("pooling_mode_lasttoken") or said.get("pooling_mode") == "lasttoken":
        return "last"
    if said.get("pooling_mode_mean_tokens") or said.get("pooling_mode") == "mean":
        return "mean"
    raise ModelError(f"{folder}/1_Pooling pools in another way than by the last token or the mean, which are the ways here")
