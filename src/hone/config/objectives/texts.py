"""Settings of learning something of texts as they stand: vectors.

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
