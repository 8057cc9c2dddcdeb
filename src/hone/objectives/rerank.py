"""Rerank: learn how well a text answers a query, reading both together, by a head that scores where the two end.

Does not know the model's architecture, how batches are laid out, or the loop.

Axes: E query, S text with its query, C candidate (a text of one query; the others of its row are filled up).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from hone.chat.codec import Codec
from hone.chat.encoded import Encoded, Example
from hone.chat.query_text import write_pair
from hone.config.objective import Rerank as RerankConfig
from hone.data.batch import Batch
from hone.data.build import TokenSet
from hone.data.columns import RowError
from hone.data.overlong import clipped
from hone.data.sample import Match
from hone.errors import DataError
from hone.models.policy import Policy
from hone.models.pooling import scored
from hone.models.score_head import ScoreHead
from hone.objectives.base import Loss, Usual


def listwise(scores_EC: Tensor) -> Tensor:
    """Minus the log-softmax of each query's first candidate among its own, [E]; where there is none, its score is -inf.

    The localized contrastive estimation of Gao et al. 2021 ("Rethink Training of BERT Rerankers"), eq. 7.
    """
    return -scores_EC.log_softmax(-1)[:, 0]


def pointwise(scores_S: Tensor, answers_S: Tensor) -> Tensor:
    """Binary cross-entropy of whether each text answers its query, [S]. answers_S: 1 where it does, else 0."""
    return binary_cross_entropy_with_logits(scores_S, answers_S, reduction="none")


class Rerank(Usual):
    """Each text of a query, written together with it, is a sequence with one score; what is learned of them is rerank_loss."""

    sample = Match
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "mrr")
    has_labels = False
    needs_logits = False
    needs_score_head = True

    def __init__(self, settings: RerankConfig):
        self._loss, self._text, self._num_random = settings.rerank_loss, settings.rerank_text, settings.rerank_random_negatives
        self.unit = "queries" if self._loss == "listwise" else "pairs"
        self.head = ScoreHead(("score",), "", self._text)
        noted = ":noted" if self._num_random else ""
        self.fingerprint = f"rerank-1:{self._loss}:{self._text}{noted}"

    def examples(self, sample: Match, codec: Codec) -> list[Match]:
        """listwise: one for each text that answers; pointwise: itself. RowError where there is nothing to be above."""
        if self._loss == "pointwise":
            return [sample]
        if not sample.negatives and not self._num_random:
            raise RowError(
                "no text that does not answer",
                'rerank_loss: listwise compares; name a column "negative", or write rerank_random_negatives, or pointwise there',
            )
        return [Match(sample.query, (positive,), sample.negatives) for positive in sample.positives]

    def encode(self, samples: list[Match], codec: Codec) -> list[Example]:
        """One Example a query: each of its texts together with it, those that answer first; value: how many these are.

        Its note is what `complete` must know to give it texts of others.
        """
        texts = [[write_pair(self._text, one.query, text) for text in (*one.positives, *one.negatives)] for one in samples]
        encoded = iter(codec.encode_plain([text for several in texts for text in several]))
        pairs = zip(texts, samples, strict=True)
        return [
            Example(tuple(next(encoded) for _ in several), value=len(one.positives), note=self._note(one))
            for several, one in pairs
        ]

    def _note(self, sample: Match) -> str:
        parts = (sample.query, sample.positives, sample.negatives)
        return json.dumps(parts, ensure_ascii=False) if self._num_random else ""

    def complete(self, tokens: TokenSet, codec: Codec, *, seed: int, longest: int) -> TokenSet:
        """Each query with `rerank_random_negatives` texts of others behind its own, cut at their end to `longest` tokens.

        Drawn by seed and row: neither micro-batch nor processes change them, and an evaluation compares the same at every step.
        """
        if not self._num_random:
            return tokens
        rows = [Match(query, tuple(right), tuple(wrong)) for query, right, wrong in map(json.loads, tokens.notes)]
        partners = draw_others(rows, self._num_random, seed)

        def pair(own: str, others: list[str]) -> list[Encoded]:
            queries = [write_pair(self._text, own, text) for text in others]
            return [clipped(one, longest, False) for one in codec.encode_plain(queries)]

        def join(own: Example, *others: Example) -> Example:
            texts = [json.loads(other.note)[1][0] for other in others]
            return replace(own, sequences=(*own.sequences, *pair(json.loads(own.note)[0], texts)))

        drawn = (pair(row.query, [rows[other].positives[0] for other in own]) for row, own in zip(rows, partners, strict=True))
        return tokens.joined(partners, join, tokens.lengths + np.array([sum(map(len, several)) for several in drawn]))

    def settled(self, tokens: TokenSet, found: ScoreHead | None) -> Rerank:
        """Itself; DataError where the model's head is another one, or was trained on texts that were written otherwise."""
        del tokens
        if found is not None and len(found.labels) != 1:
            raise DataError(f"the model is a classifier of {len(found.labels)} classes and no reranker; name another base")
        if found is not None and found.text and found.text != self._text:
            raise DataError(f"rerank_text: saw {self._text!r}, and the model was trained with {found.text!r}; write that")
        return self

    def problem_of(self, tokens: TokenSet) -> str:
        """Texts that all answer teach the model to say yes."""
        if self._num_random:
            return ""
        for entry in tokens.entries:
            if (np.diff(entry.firsts) > entry.values).any():
                return ""
        return (
            'every text answers its query: there is nothing to tell apart; name a column "negative" in the entry of the data '
            "set, or write rerank_random_negatives"
        )

    def count(self, batch: Batch) -> int:
        """The batch's queries, or with pointwise its texts."""
        return len(batch.parts) if self._loss == "listwise" else batch.num_sequences

    def loss(self, policy: Policy, batch: Batch) -> Loss:
        """The summed loss. accuracy: share of queries with a text that answers on top; mrr: mean of 1 / its rank.

        Queries without a text that does not answer have no figures.
        """
        scores_S, answers_S = scored(policy, batch)[:, 0], _answers(batch)
        scores_EC, answers_EC = _by_query(scores_S, batch, -torch.inf), _by_query(answers_S, batch, -1.0)
        losses = listwise(scores_EC) if self._loss == "listwise" else pointwise(scores_S, answers_S)
        told_EC = scores_EC.detach()
        best_E = told_EC.masked_fill(answers_EC != 1, -torch.inf).amax(-1, keepdim=True)
        rank_E = 1 + ((told_EC >= best_E) & (answers_EC == 0)).sum(-1)
        compared_E = (answers_EC == 0).any(-1).float()
        num = compared_E.sum()
        top_E, share_E = (rank_E == 1).float(), 1 / rank_E
        return Loss(losses.sum(), {"accuracy": ((top_E * compared_E).sum(), num), "mrr": ((share_E * compared_E).sum(), num)})


def draw_others(rows: Sequence[Match], num: int, seed: int) -> np.ndarray:
    """int64 [rows, num]: rows whose first positive is to be a negative of each, no text twice; of a row's own seed each.

    No text that answers the same query anywhere in the set, nor one that the row has already. Raises DataError where there are
    not enough.
    """
    right: dict[str, set[str]] = {}
    for row in rows:
        right.setdefault(row.query, set()).update(row.positives)
    found = np.empty((len(rows), num), np.int64)
    for number, row in enumerate(rows):
        taken, order, drawn = {*right[row.query], *row.negatives}, np.random.default_rng((seed, number)), 0
        for other in _in_any_order(len(rows), order):
            if (text := rows[other].positives[0]) not in taken:
                taken.add(text)
                found[number, drawn] = other
                drawn += 1
            if drawn == num:
                break
        if drawn < num:
            raise DataError(
                f"rerank_random_negatives: {num}, and beside the query {row.query[:60]!r} there are {drawn} texts that do not "
                f"answer it, of {len(rows):,} rows (an evaluation draws from its own); write {drawn}, or add rows"
            )
    return found


def _in_any_order(count: int, chance: np.random.Generator) -> Iterator[int]:
    """Every number below `count` once; a few of them cost no more in a large set than in a small one."""
    seen: set[int] = set()
    while len(seen) < min(count, 64):
        if (number := int(chance.integers(count))) not in seen:
            seen.add(number)
            yield number
    yield from (int(number) for number in chance.permutation(count) if int(number) not in seen)


def _answers(batch: Batch) -> Tensor:
    """fp32 [S]: 1 for the texts of each query that answer it, which come first, else 0."""
    assert batch.values_E is not None, "queries that do not say how many texts answer"
    return torch.cat(
        [torch.arange(num, device=many.device) < many for num, many in zip(batch.parts, batch.values_E, strict=True)]
    ).float()


def _by_query(values_S: Tensor, batch: Batch, fill: float) -> Tensor:
    """[E, C]: the values of each query's texts, `fill` behind its last."""
    return torch.nn.utils.rnn.pad_sequence(values_S.split(list(batch.parts)), batch_first=True, padding_value=fill)
