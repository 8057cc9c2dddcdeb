"""Classify: learn what a text is, of which class or what number it has, by a head that scores where the text ends.

Does not know the model's architecture, how batches are laid out, or the loop.

Axes: S text, C class.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from hone.chat.codec import Codec
from hone.chat.encoded import Example
from hone.config.objective import Classify as ClassifyConfig
from hone.data.batch import Batch
from hone.data.build import TokenSet
from hone.data.columns import RowError
from hone.data.sample import Labelled
from hone.errors import DataError
from hone.models.policy import Policy
from hone.models.pooling import scored
from hone.models.score_head import ScoreHead
from hone.objectives.base import Figures, Loss, Usual

CLASS = "class"
"""The name in batch.aside of each text's class, by its number."""
MOST_TOLD = 20
"""Classes up to which the figure of each is told, and not their mean alone."""


def build_classify(settings: ClassifyConfig) -> Usual:
    """The objective of the kind of labels."""
    return Classes(settings) if settings.label_kind == "class" else Numbers()


class _Texts(Usual):
    """What both kinds of labels share."""

    sample = Labelled
    unit = "texts"
    has_labels = False
    needs_logits = False
    needs_score_head = True

    def count(self, batch: Batch) -> int:
        """The batch's texts."""
        return len(batch.parts)


class Classes(_Texts):
    """Cross-entropy of each text's class. A class is named in the data, and numbered once the training set was seen."""

    fingerprint = "classify-1"

    def __init__(self, settings: ClassifyConfig, head: ScoreHead | None = None, weights: tuple[float, ...] = ()):
        self._settings, self.head, self._weights = settings, head, weights
        self.names = () if head is None else head.labels
        self.metrics = ("accuracy", *(f"f1/{name}" for name in self.names))

    def encode(self, samples: list[Labelled], codec: Codec) -> list[Example]:
        """One Example a text, with its class in the note."""
        encoded = codec.encode_plain([one.text for one in samples])
        pairs = zip(encoded, samples, strict=True)
        return [Example((text,), note=json.dumps(class_name(one.label), ensure_ascii=False)) for text, one in pairs]

    def examples(self, sample: Labelled, codec: Codec) -> list[Labelled]:
        """Itself; RowError where its label is no class."""
        class_name(sample.label)
        return [sample]

    def settled(self, tokens: TokenSet, found: ScoreHead | None) -> Classes:
        """The same with its classes: those that are written, or of the head that is there, or else of the set, sorted."""
        counts = Counter(map(json.loads, tokens.notes))
        written, there = self._settings.class_names, () if found is None else _plain_names(found)
        if found is not None and found.problem != "single_label_classification":
            raise DataError(
                "label_kind: class, and the model's head gives one number a text: name another base, or write label_kind: number"
            )
        if written and there and written != there:
            raise DataError(
                f"class_names: saw {_listed(written)}, and the model is a classifier of {_listed(there)}; write those"
            )
        head = ScoreHead(written or there or tuple(sorted(counts, key=_in_order)))
        weights = (1.0,) * len(head.labels)
        if self._settings.class_weights == "balanced":
            weights = tuple(len(tokens) / (len(counts) * counts[name]) if counts[name] else 0.0 for name in head.labels)
        return Classes(self._settings, head, weights)

    def problem_of(self, tokens: TokenSet) -> str:
        """One class alone teaches nothing."""
        present = {self.names[int(number)] for number in np.unique(tokens.aside[CLASS])}
        if len(present) > 1:
            return ""
        return (
            f"all {len(tokens):,} texts are of the class {present.pop()!r}: there is nothing to tell apart; add texts of other "
            "classes, or name another column as the label"
        )

    def complete(self, tokens: TokenSet, codec: Codec, *, seed: int, longest: int) -> TokenSet:
        """The set with each text's class by its number aside; DataError where one is of a class that is not known."""
        del codec, seed, longest
        numbers = {name: number for number, name in enumerate(self.names)}
        found = np.empty((len(tokens), 1), np.float32)
        for index, note in enumerate(tokens.notes):
            name = json.loads(note)
            if name not in numbers:
                origin, row = tokens.origin(index)
                source = "class_names" if self._settings.class_names else "dataset, or of the model that learns"
                raise DataError(
                    f"{origin} row {row} is of the class {name!r}, and the classes of {source} are {_listed(self.names)}. "
                    "Mend the row, or write all classes in class_names"
                )
            found[index] = numbers[name]
        return replace(tokens, aside={**tokens.aside, CLASS: found})

    def loss(self, policy: Policy, batch: Batch) -> Loss:
        """The summed cross-entropy, in evaluation without weights. accuracy: share of texts whose class has the highest score."""
        scores_SC, classes_S = scored(policy, batch), batch.aside[CLASS].long()
        losses_S = cross_entropy(scores_SC, classes_S, reduction="none")
        figures: dict[str, tuple[Tensor | float, Tensor | float]] = {}
        likeliest_S = scores_SC.detach().argmax(-1)
        figures["accuracy"] = ((likeliest_S == classes_S).float().sum(), len(classes_S))
        if not policy.module.training:
            return Loss(losses_S.sum(), {**figures, **self._f1(likeliest_S, classes_S)})
        weights_C = torch.tensor(self._weights, device=losses_S.device)
        return Loss((weights_C[classes_S] * losses_S).sum(), figures)

    def _f1(self, likeliest_S: Tensor, classes_S: Tensor) -> Figures:
        counts_C, sums_C = f1_parts(likeliest_S, classes_S, len(self.names))
        return {f"f1/{name}": (counts_C[number], sums_C[number]) for number, name in enumerate(self.names)}

    def told(self, figures: Mapping[str, float]) -> dict[str, float]:
        """With f1, the mean of the classes' own (macro F1) over those that are there or were taken to be."""
        own = {name: value for name, value in figures.items() if name.startswith("f1/")}
        kept = {name: value for name, value in figures.items() if name not in own or len(self.names) <= MOST_TOLD}
        return {**kept, "f1": sum(own.values()) / len(own)} if own else kept


def f1_parts(likeliest_S: Tensor, classes_S: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """fp32 [C], [C] of each class: 2 TP, and 2 TP + FP + FN. Both add up over batches; their quotient is F1."""
    said_C, true_C = (torch.bincount(one_S, minlength=num).float() for one_S in (likeliest_S, classes_S))
    hits_C = torch.bincount(classes_S[likeliest_S == classes_S], minlength=num).float()
    return 2 * hits_C, said_C + true_C


def class_name(label: str | int | float) -> str:
    """How a class is called; RowError where the label is none."""
    if isinstance(label, bool):
        return "true" if label else "false"
    if isinstance(label, float):
        raise RowError(
            "the label is no class", f"seen {label:g}; a class is text, a whole number or true or false; see label_kind"
        )
    return str(label)


def _plain_names(found: ScoreHead) -> tuple[str, ...]:
    """transformers numbers classes that nobody named: LABEL_0, LABEL_1."""
    numbered = found.labels == tuple(f"LABEL_{number}" for number in range(len(found.labels)))
    return tuple(map(str, range(len(found.labels)))) if numbered else found.labels


def _in_order(name: str) -> tuple[bool, int, str]:
    """Whole numbers by size, then words."""
    return (False, int(name), name) if name.lstrip("-").isdecimal() else (True, 0, name)


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names[:MOST_TOLD]) + (f" and {len(names) - MOST_TOLD} more" if len(names) > MOST_TOLD else "")


class Numbers(_Texts):
    """The squared distance of the head's one number from the text's."""

    metrics: ClassVar[tuple[str, ...]] = ("mse", "mae")
    fingerprint = "classify-1-number"
    head = ScoreHead(("number",), "regression")

    def examples(self, sample: Labelled, codec: Codec) -> list[Labelled]:
        """Itself with its label as a number; RowError where it is none."""
        try:
            number = float(sample.label)
        except ValueError:
            number = math.nan
        if isinstance(sample.label, bool) or not math.isfinite(number):
            raise RowError("the label is no number", f"seen {str(sample.label)[:60]!r}, and label_kind is number")
        return [Labelled(sample.text, number)]

    def encode(self, samples: list[Labelled], codec: Codec) -> list[Example]:
        """One Example a text, with its number."""
        encoded = codec.encode_plain([one.text for one in samples])
        return [Example((text,), value=float(one.label)) for text, one in zip(encoded, samples, strict=True)]

    def settled(self, tokens: TokenSet, found: ScoreHead | None) -> Numbers:
        """Itself; DataError where the model's head tells classes apart."""
        if found is not None and len(found.labels) > 1:
            raise DataError(
                f"label_kind: number, and the model is a classifier of {_listed(found.labels)}: name another base, or write "
                "label_kind: class"
            )
        return self

    def loss(self, policy: Policy, batch: Batch) -> Loss:
        """The summed squared distance. mae: mean of the distance itself."""
        scores_SC, wanted_S = scored(policy, batch), batch.values_E
        assert wanted_S is not None, "texts without a number"
        away_S = scores_SC[:, 0] - wanted_S
        num, told_S = len(batch.parts), away_S.detach()
        return Loss(away_S.square().sum(), {"mse": (told_S.square().sum(), num), "mae": (told_S.abs().sum(), num)})
