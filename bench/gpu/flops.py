"""Arithmetic of a step, from an architecture's config alone: what MFU is a share of.

Does not know a device. A product of [m, k] by [k, n] counts 2 m k n.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Work:
    """Weights whose products every token takes, of a model. linear: of the layers; head: of the output head; attended: heads
    times their width times layers; adapted: of a LoRA of rank 1 on all linear layers."""

    linear: int
    head: int
    attended: int
    adapted: int


def work_of(config: Any) -> Work:
    """Of a Llama-like decoder, dense or with experts; those that answer a token count, not those that are there."""
    width, heads, layers = config.hidden_size, config.num_attention_heads, config.num_hidden_layers
    head_dim = getattr(config, "head_dim", None) or width // heads
    keys = (getattr(config, "num_key_value_heads", None) or heads) * head_dim
    shapes = [(width, heads * head_dim), (width, keys), (width, keys), (heads * head_dim, width)]
    experts = getattr(config, "num_experts_per_tok", 0) or 0
    inner = config.moe_intermediate_size if experts else config.intermediate_size
    mlp = [(width, inner), (width, inner), (inner, width)] * (experts or 1)
    router = width * config.num_experts if experts else 0
    linear = sum(wide * tall for wide, tall in [*shapes, *mlp]) + router
    adapted = sum(wide + tall for wide, tall in (shapes if experts else [*shapes, *mlp]))
    return Work(linear * layers, width * config.vocab_size, heads * head_dim * layers, adapted * layers)


def flops_per_token(work: Work, length: int, *, method: str, rank: int = 0, reference: bool = False) -> float:
    """Of a token of a document of `length` tokens, all of them learned, forward and backward, nothing recomputed.

    Frozen weights take a product forward and one backward, trained ones one more; causal attention half of length^2, and two
    and a half times as much backward as forward. reference: another forward pass, without gradient.
    """
    trained = method == "full"
    products = (6 if trained else 4) * (work.linear + work.head) + 6 * rank * work.adapted
    attention = 2 * length * work.attended
    again = 2 * (work.linear + work.head) + attention if reference else 0
    return products + 3.5 * attention + again
