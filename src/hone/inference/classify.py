"""Classifier and Reranker: what a text is, or how well texts answer a query, encoded and read as it was trained.

Does not know how it was trained, nor what the answer is for.

Axes: S text, C class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hone.adapters.apply import attach
from hone.adapters.folder import folders_of
from hone.chat.codec import Codec, build_codec
from hone.chat.query_text import write_pair
from hone.config.adapter import Adapter
from hone.config.chat import ChatConfig
from hone.config.model import ModelConfig
from hone.errors import ModelError
from hone.inference.build import choose_device, choose_dtype
from hone.inference.score import read_all
from hone.models.load import load_model
from hone.models.place import hub_name
from hone.models.policy import Policy
from hone.models.pooling import scored
from hone.models.score_head import ScoreHead, find_score_head
from hone.models.tokenizer import load_tokenizer


@dataclass(frozen=True)
class TextScores:
    """A model whose head scores texts; policy: in evaluation mode."""

    policy: Policy
    codec: Codec
    head: ScoreHead

    @torch.inference_mode()
    def scores(self, texts: Sequence[str]) -> Tensor:
        """fp32 [S, C] on the CPU: the head's numbers of each text, whatever else is read at once.

        Raises: ModelError where a text is longer than the model can hold; TemplateError where it is not valid Unicode.
        """
        return read_all(self.policy, self.codec, self.codec.encode_plain(texts), lambda batch: scored(self.policy, batch))


@dataclass(frozen=True)
class Classifier(TextScores):
    """`Classifier(...).classify(["Never again."])[0]` is {"negative": 0.93, "positive": 0.07}."""

    def classify(self, texts: Sequence[str]) -> list[dict[str, float]]:
        """The probability of each class, the likeliest first; of a model that gives a number, that number under its name."""
        scores_SC = self.scores(texts)
        told = scores_SC if self.head.problem == "regression" else scores_SC.softmax(-1)
        found = [dict(zip(self.head.labels, row, strict=True)) for row in told.tolist()]
        return [dict(sorted(one.items(), key=lambda pair: -pair[1])) for one in found]


@dataclass(frozen=True)
class Reranker(TextScores):
    """`Reranker(...).score("Why does bread rise?", documents)`."""

    def score(self, query: str, documents: Sequence[str]) -> list[float]:
        """A number for each document, in order; higher answers better, and only numbers of one query compare."""
        return self.scores([write_pair(self.head.text, query, document) for document in documents])[..., 0].tolist()


def build_classifier(model: ModelConfig, adapter: Adapter, *, dtype: str = "auto", length: int | None = None) -> Classifier:
    """A classifier out of the settings; its classes are those that the last adapter's folder, or the model's, names.

    Raises: ModelError where neither is a classifier, or something cannot be loaded or does not fit.
    """
    found = find_score_head(model, folders_of(adapter))
    if found is None or not found.problem:
        what = "no classifier" if found is None else "a reranker"
        raise ModelError(f"{model.model_name_or_path} is {what}; train a classifier with stage: classify")
    return Classifier(*_load(model, adapter, found, dtype, length), found)


def build_reranker(model: ModelConfig, adapter: Adapter, *, dtype: str = "auto", length: int | None = None) -> Reranker:
    """A reranker out of the settings, which writes query and document as its folder says.

    Raises: ModelError where it is none, or something cannot be loaded or does not fit.
    """
    found = find_score_head(model, folders_of(adapter))
    if found is None or not found.text:
        raise ModelError(
            f"{model.model_name_or_path} is no reranker: nothing there says how query and document are written (rerank_text); "
            "train one with stage: rerank"
        )
    return Reranker(*_load(model, adapter, found, dtype, length), found)


def _load(model: ModelConfig, adapter: Adapter, head: ScoreHead, dtype: str, length: int | None) -> tuple[Policy, Codec]:
    codec = build_codec(ChatConfig(template="empty"), load_tokenizer(model))
    kind = choose_dtype(model, dtype, scores=True)
    module = load_model(model, dtype=kind, device=choose_device(), for_training=False, length=length, head=head)
    policy = Policy(attach(module, adapter, base_name=hub_name(model), trainable=False).eval(), 0.0)
    policy.self_test()
    return policy, codec
