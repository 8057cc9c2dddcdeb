"""Settings of what is learned from a sample: the kind of training and its numbers.

Does not know the model or the data's files.
"""

from __future__ import annotations

from typing import Literal

from hone.config.section import Section, knob


class _Likelihood(Section):
    """What all that learn by cross-entropy share."""

    moe_aux_loss_coef: float | None = knob(
        None,
        "What the router's balance loss of a mixture of experts is multiplied by, so that its experts stay evenly used. "
        "Left out, the model's own config decides; 0 leaves the loss out. It is computed for each sequence by itself, so "
        "that batch size and packing change nothing; eval_loss is without it. 0.001 is usual; set it for long full training.",
        level="advanced",
        ge=0,
        example="0.001",
    )


class Sft(_Likelihood):
    """Learn the answers of conversations."""

    kind: Literal["sft"] = "sft"
    train_on_prompt: bool = knob(
        False,
        "Learns the questions and system prompts too, not the answers alone. For models that shall also write like your users.",
        level="advanced",
    )
    mask_history: bool = knob(
        False,
        "Learns only the last answer of each conversation. Turn it on where the earlier answers are of another hand, "
        "or where every conversation is repeated with one more answer.",
    )


class Pretrain(_Likelihood):
    """Learn to continue plain text."""

    kind: Literal["pretrain"] = "pretrain"


class Reward(Section):
    """Learn to score answers from pairs of a better and a worse one."""

    kind: Literal["reward"] = "reward"


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


Objective = Sft | Pretrain | Reward | Embed
