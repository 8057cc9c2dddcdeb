"""Embed: learn vectors of texts, so that a query lies nearer to a text that answers it than to the others of its micro-batch.

Does not know the model's architecture, how batches are laid out, or the loop.

Axes: B row, T token, S sequence, E example (query), C candidate (every text that is no query), D width.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from hone.chat.codec import Codec
from hone.chat.encoded import Example
from hone.config.objective import Embed as EmbedConfig
from hone.data.batch import Batch
from hone.data.sample import Match
from hone.errors import ModelError
from hone.models.policy import Policy
from hone.models.pooling import Pooling, pooled
from hone.objectives.base import Loss, Usual

_MODULES = "sentence_transformers.models"


def info_nce(queries_ED: Tensor, candidates_CD: Tensor, own_E: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Minus the log-softmax of each query's own candidate among all, by cosine / temperature: [E]; and the cosines [E, C].

    own_E: the number of each query's positive among the candidates. van den Oord et al. 2018 (CPC), eq. 4.
    """
    cosines_EC = normalize(queries_ED, dim=-1) @ normalize(candidates_CD, dim=-1).T
    return cross_entropy(cosines_EC / temperature, own_E, reduction="none"), cosines_EC


class Embed(Usual):
    """InfoNCE over the texts of a micro-batch: every query's positive and hard negatives, and those of the other queries."""

    sample = Match
    unit = "queries"
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "mrr")
    has_labels = False
    needs_logits = False
    mixes_rows = True

    def __init__(self, settings: EmbedConfig):
        self.pooling: Pooling = settings.embed_pooling
        self.temperature, self.query_prompt = settings.embed_temperature, settings.embed_query_prompt
        self.widths = settings.matryoshka_dims
        self.weights = settings.matryoshka_weights or (1.0,) * len(self.widths)
        self.fingerprint = f"embed-1:{self.query_prompt}"

    def examples(self, sample: Match, codec: Codec) -> list[Match]:
        """One for each text that answers the query."""
        return [Match(sample.query, (positive,), sample.negatives) for positive in sample.positives]

    def encode(self, samples: list[Match], codec: Codec) -> list[Example]:
        """One Example a query: the query, its positive, its negatives, each by itself as the tokenizer encodes a text."""
        texts = [[self.query_prompt + one.query, *one.positives, *one.negatives] for one in samples]
        encoded = iter(codec.encode_plain([text for several in texts for text in several]))
        return [Example(tuple(next(encoded) for _ in several)) for several in texts]

    def beside(self, cutoff_len: int, width: int) -> dict[str, Any]:
        """What sentence-transformers needs to load the folder of a whole model."""
        kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
        modules = [
            {"idx": number, "name": str(number), "path": path, "type": f"{_MODULES}.{kind}"}
            for number, (path, kind) in enumerate(kinds.items())
        ]
        pooling = {"pooling_mode_mean_tokens": self.pooling == "mean", "pooling_mode_lasttoken": self.pooling == "last"}
        pooling |= {"word_embedding_dimension": width, "pooling_mode_cls_token": False, "include_prompt": True}
        return {
            "modules.json": modules,
            "1_Pooling/config.json": pooling,
            "sentence_bert_config.json": {"max_seq_length": cutoff_len, "do_lower_case": False},
            "config_sentence_transformers.json": {
                "prompts": {"query": self.query_prompt, "document": ""},
                "default_prompt_name": None,
                "similarity_fn_name": "cosine",
            },
        }

    def count(self, batch: Batch) -> int:
        """The batch's queries."""
        return len(batch.parts)

    def loss(self, policy: Policy, batch: Batch) -> Loss:
        """The summed loss. accuracy: share of queries whose positive is nearest (recall at 1); mrr: mean of 1 / its rank."""
        vectors_SD = pooled(policy, batch, self.pooling)
        self._require_width(vectors_SD.shape[-1])
        firsts_E, candidates_C = _places(batch.parts, vectors_SD.device)
        own_E = firsts_E - torch.arange(len(firsts_E), device=firsts_E.device)  # of the candidates, as many queries fewer
        queries_ED, candidates_CD = vectors_SD[firsts_E], vectors_SD[candidates_C]
        losses_E, cosines_EC = info_nce(queries_ED, candidates_CD, own_E, self.temperature)
        if self.widths:
            losses_E = torch.zeros_like(losses_E)
            for width, weight in zip(self.widths, self.weights, strict=True):
                part_E, _ = info_nce(queries_ED[:, :width], candidates_CD[:, :width], own_E, self.temperature)
                losses_E = losses_E + weight * part_E
        cosines_EC = cosines_EC.detach()
        rank_E = 1 + (cosines_EC > cosines_EC.gather(1, own_E.unsqueeze(1))).sum(1)
        num = self.count(batch)
        return Loss(losses_E.sum(), {"accuracy": ((rank_E == 1).float().sum(), num), "mrr": ((1 / rank_E).sum(), num)})

    def _require_width(self, width: int) -> None:
        if self.widths and max(self.widths) > width:
            raise ModelError(f"matryoshka_dims: saw {max(self.widths)}, and the model's vectors have {width} numbers")


def _places(parts: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Numbers of the sequences that are queries [E], and of the others [C]: each query's positive comes right behind it."""
    parts_E = torch.tensor(parts, device=device)
    firsts_E = parts_E.cumsum(0) - parts_E
    others_S = torch.ones(sum(parts), dtype=torch.bool, device=device)
    others_S[firsts_E] = False
    return firsts_E, others_S.nonzero().squeeze(1)
