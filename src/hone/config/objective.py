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


Objective = Sft | Pretrain | Reward
