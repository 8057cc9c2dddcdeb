"""Shapes: a raw row of a data set, in the alpaca, sharegpt or openai shape, read into the Sample an objective eats.

Knows no file, template or tokenizer; what cannot be used is a RowError with its reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hone.data.alpaca import alpaca, user_text
from hone.data.catalog import DatasetSpec
from hone.data.columns import RowError
from hone.data.label import labelled
from hone.data.match import match
from hone.data.media import COLUMNS, with_media
from hone.data.preference import pair, rated, task
from hone.data.sample import Dialog, Labelled, Match, Pair, Passage, Rated, Sample, Task
from hone.data.sharegpt import openai, sharegpt
from hone.errors import DataError

SHAPES_VERSION = "shapes-3"
"""Part of the token cache's key: raise it when the same row would become another sample."""
READERS = {"alpaca": alpaca, "sharegpt": sharegpt, "openai": openai}


_MEANS: dict[type[Sample], str] = {
    Dialog: "supervised fine-tuning (stage: sft)",
    Passage: "pretraining (stage: pt)",
    Pair: "learning from pairs (stage: dpo or rm)",
    Rated: "learning from rated answers (stage: kto)",
    Match: "learning which text answers a query (stage: embed or rerank)",
    Labelled: "learning what a text is (stage: classify)",
}


def check_usable(spec: DatasetSpec, wanted: type[Sample]) -> None:
    """Raise DataError where no row of the set can be a `wanted` sample."""
    if spec.is_preference and wanted in (Dialog, Passage, Rated if spec.ranking else Pair):
        kind = "pairs of a chosen and a rejected answer" if spec.ranking else "answers rated good or bad"
        hint = f"columns {spec.columns.chosen} and {spec.columns.rejected}" if spec.ranking else "columns.kto_tag in its entry"
        instead = "stage: dpo, rm" if spec.ranking else "stage: kto"
        raise DataError(
            f'data set "{spec.name}" holds {kind} ({hint}), which {_MEANS[wanted]} cannot learn from; '
            f"choose another set, an entry that names only the answers to learn, or {instead}"
        )
    if wanted is Match and (spec.columns.positive is None or spec.shape != "alpaca"):
        raise DataError(
            f'data set "{spec.name}" does not say which text answers a query, and {_MEANS[wanted]} needs that; write '
            '"columns": {"query": NAME, "positive": NAME, "negative": NAME} into its entry, without "formatting"'
        )
    if wanted is Labelled and (spec.columns.label is None or spec.shape != "alpaca"):
        raise DataError(
            f'data set "{spec.name}" does not say which column is the label, and {_MEANS[wanted]} needs that; write '
            '"columns": {"prompt": NAME, "label": NAME} into its entry, without "formatting"'
        )
    if wanted is Dialog and spec.columns.label and not spec.columns.response and spec.shape == "alpaca":
        raise DataError(
            f'data set "{spec.name}" holds labelled texts (columns.label in its entry) and no answers for {_MEANS[wanted]}; '
            'write stage: classify, or name the answers: "columns": {..., "response": NAME}'
        )
    if wanted is Pair and not spec.ranking:
        raise DataError(
            f'data set "{spec.name}" holds single answers, and {_MEANS[wanted]} needs two to each question; write '
            '"ranking": true and "columns": {..., "chosen": NAME, "rejected": NAME} into its entry, or choose another set'
        )
    if wanted is Rated and spec.columns.kto_tag is None:
        raise DataError(
            f'data set "{spec.name}" does not say which answers are good, and {_MEANS[wanted]} needs that; write '
            '"columns": {..., "kto_tag": NAME} into its entry, or choose another set'
        )


def to_sample(row: Mapping[str, Any], spec: DatasetSpec, wanted: type[Sample]) -> Sample:
    """The row as the sample that is wanted.

    As a Passage it is the text of its first message, as LLaMA-Factory's pretraining reads any shape.
    """
    if wanted not in (Dialog, Pair):
        _refuse_media(row, spec)
    if wanted is Passage:
        return _passage(row, spec)
    if wanted is Match:
        return match(row, spec)
    if wanted is Labelled:
        return labelled(row, spec)
    if wanted is Pair:
        two = pair(row, spec)
        return Pair(with_media(two.chosen, row, spec), with_media(two.rejected, row, spec))
    if wanted is Task:
        return task(row, spec)
    conversation = READERS[spec.shape](row, spec)
    if not any(said.role == "assistant" for said in conversation.messages):
        raise RowError("no assistant message")
    return rated(row, spec, conversation) if wanted is Rated else Dialog(with_media(conversation, row, spec))


def _refuse_media(row: Mapping[str, Any], spec: DatasetSpec) -> None:
    for kind in COLUMNS:
        column = vars(spec.columns)[kind]
        if column and row.get(column):
            raise RowError(f"it has {kind}", f'column "{column}"; this stage learns from text alone')


def _passage(row: Mapping[str, Any], spec: DatasetSpec) -> Passage:
    if spec.shape == "alpaca":
        text = user_text(row, spec)
    else:
        first = READERS[spec.shape](row, spec).messages
        text = next((said.text for said in first if said.role != "system"), "")
    if not text.strip():
        raise RowError("empty text")
    return Passage(text)
