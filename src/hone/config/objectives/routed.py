"""Routed: the setting of a model whose experts are chosen by a router, which is to use them evenly.

Does not know what else is learned.
"""

from __future__ import annotations

from hone.config.section import Section, knob


class Routed(Section):
    """What all share that form a loss of every token, which the router's can be added to."""

    moe_aux_loss_coef: float | None = knob(
        None,
        "What the router's balance loss of a mixture of experts is multiplied by, so that its experts stay evenly used. "
        "Left out, the model's own config decides; 0 leaves the loss out. It is computed for each sequence by itself, so "
        "that batch size and packing change nothing; eval_loss is without it. 0.001 is usual; set it for long full training.",
        level="advanced",
        ge=0,
        example="0.001",
    )
