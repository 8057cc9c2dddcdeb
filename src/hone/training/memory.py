"""Memory: an estimate, before anything is loaded, of what a training step holds, by part.

Does not know how to save memory, only what each choice costs; activations are an estimate, the other parts are exact counts.

Axes in formulas: T tokens of a micro-batch, D hidden width, F feed-forward width, V vocabulary, L layers.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from hone.kernels.token_logprobs import CHUNK_ELEMENTS
from hone.models.shape import Shape


@dataclass(frozen=True)
class Memory:
    """Bytes by part. activations: with everything kept for the backward pass, or with layers recomputed."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """All parts together."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits

    def lines(self) -> list[str]:
        """One line a part, then the total."""
        parts = {name: getattr(self, name) for name in ("weights", "gradients", "optimizer", "activations", "logits", "total")}
        return [f"{name:<12}{in_gib(size):>10}" for name, size in parts.items()]


def in_gib(size: int) -> str:
    """ "1.50 GiB"; below a hundredth of one, "3.2 MiB"."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 // 100 else f"{size / 2**20:.1f} MiB"


def estimate(
    shape: Shape,
    *,
    num_trained: int,
    tokens: int,
    weight_bytes: float,
    trained_weight_bytes: int,
    compute_bytes: int,
    state_bytes: float,
    recompute: bool,
) -> Memory:
    """The step's memory.

    num_trained: trained weights; tokens: the largest micro-batch; weight_bytes: a frozen base weight (0.5 in 4 bits);
    trained_weight_bytes: a trained weight; compute_bytes: an activation; state_bytes: optimizer state a trained weight.
    """
    frozen = shape.num_weights - num_trained if num_trained <= shape.num_weights else shape.num_weights
    base = int(frozen * weight_bytes) if num_trained < shape.num_weights else 0
    layer = _layer_bytes(shape, tokens, compute_bytes)
    kept = tokens * shape.hidden * compute_bytes * shape.num_layers + layer if recompute else layer * shape.num_layers
    return Memory(
        weights=base + num_trained * trained_weight_bytes,
        gradients=num_trained * trained_weight_bytes,
        optimizer=int(num_trained * state_bytes),
        activations=kept,
        logits=min(tokens * shape.vocabulary, CHUNK_ELEMENTS) * 4 * 3,  # a chunk in fp32: logits, their softmax, its gradient
    )


def _layer_bytes(shape: Shape, tokens: int, compute_bytes: int) -> int:
    """Activations of one decoder layer: two norms (fp32 and compute type), q, k, v, attention and output, gate, up, product."""
    norms = 2 * shape.hidden * (4 + compute_bytes)
    attention = 6 * shape.hidden * compute_bytes
    feed_forward = 4 * shape.feed_forward * compute_bytes
    return tokens * (norms + attention + feed_forward)


def available_bytes(device: torch.device) -> int:
    """Memory that is free now: the accelerator's, or the machine's."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
