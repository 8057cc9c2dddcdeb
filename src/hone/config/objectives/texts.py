"""Settings of learning something of texts as they stand: vectors, what they are, how well they answer.

Does not know the texts, nor how they become tokens.
"""

from __future__ import annotations

from typing import Literal

from hone.config.section import Section, knob


class Embed(Section):
    """Learn vectors of texts, so that a query lies near the texts that answer it."""

    kind: Literal["embed"] = "embed"
    embed_pooling: Literal["last", "mean"] = knob(
        "last",
        "What a text's vector is: the hidden state of its last token, or the mean of all of them. Models that read from left to "
        "right are mostly trained with last; take the base's own where it is an embedding model already.",
    )
    embed_temperature: float = knob(
        0.05,
        "Cosines are divided by it before they are compared. Lower it, to 0.02 or 0.01, to mind the nearest wrong texts more.",
        gt=0,
    )
    embed_query_prompt: str = knob(
        "",
        "Text put before every query and before no other text; it is saved under prompts: query, where sentence-transformers "
        "finds it.",
        example='"Instruct: Find a text that answers the question.\\nQuery: "',
    )
    matryoshka_dims: tuple[int, ...] = knob(
        (),
        "Widths, with commas between them, at which the beginning of a vector is to serve alone: the loss is learned at each of "
        "them. Name the full width too, unless it is not to be used.",
        level="advanced",
        example="64,256,896",
    )
    matryoshka_weights: tuple[float, ...] = knob(
        (),
        "What the loss at each of matryoshka_dims is multiplied by; 1 each where left out.",
        level="advanced",
        example="1,1,1",
    )


class Classify(Section):
    """Learn what a text is: of which class, or what number it has."""

    kind: Literal["classify"] = "classify"
    label_kind: Literal["class", "number"] = knob(
        "class",
        "What the labels are. class: names, whole numbers, or true and false; a text has one of them, and learned is the "
        "cross-entropy. number: how much of something a text has, as stars or prices; learned is the squared distance.",
    )
    class_names: tuple[str, ...] = knob(
        (),
        "The classes, in the order in which the model shall number them. Left out, they are those of dataset, sorted, or those "
        "of a base that is a classifier already. Write them where the order matters, or where dataset has not all of them.",
        example="negative,neutral,positive",
    )
    class_weights: Literal["none", "balanced"] = knob(
        "none",
        "What a text's loss is multiplied by. balanced: texts / (classes x texts of its class), all of dataset, so that a rare "
        "class weighs as much as a frequent one. eval_loss is without it.",
    )


RERANK_TEXT = "Query: {query}\nDocument: {document}"


class Rerank(Section):
    """Learn how well a text answers a query, reading both together."""

    kind: Literal["rerank"] = "rerank"
    rerank_loss: Literal["listwise", "pointwise"] = knob(
        "listwise",
        "What is learned of a query's texts. listwise: that the one which answers it is above its negatives, whatever the scores "
        "(Gao et al. 2021). pointwise: whether each text answers, by itself; a score's sigmoid is then a probability.",
    )
    rerank_random_negatives: int = knob(
        0,
        "Texts of other rows that each query is given as further texts which do not answer it, drawn once for the run. They "
        "teach what is wide of the mark, where a row's own negatives teach what only seems right. 1 to 7 are usual; each costs "
        "as much as a negative of the row.",
        unit="texts",
        ge=0,
        example="4",
    )
    rerank_text: str = knob(
        RERANK_TEXT,
        "How a query and a text are written as one, with {query} and {document} in it. It is saved with the model, and read from "
        "there when the model is used. Put {document} last: what is longer than cutoff_len is cut at the end.",
        level="advanced",
        example='"Query: {query}\\nDocument: {document}"',
    )
