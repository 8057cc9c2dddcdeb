"""Memory: an estimate, before anything is loaded, of the most that a process will hold in training, by part.

Does not know how to save memory, only what each choice costs. On a CPU it includes what Python and its libraries hold already.

Axes in formulas: T tokens of a micro-batch, D hidden width, A attention width, F feed-forward width, V vocabulary, L layers.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from hone.kernels.token_logprobs import CHUNK_ELEMENTS
from hone.models.prepared import KEPT
from hone.models.shape import Shape

_HEAP_SHARE = {"kept": 0.9, "recomputed": 0.6}
"""Of what all layers form in a pass: glibc's heap holds it beside the tensors, as they come and go in every size, and recomputing
leaves holes too. Measured, see bench/plan_memory.py."""

_PREPARED_BYTES = 600_000
"""Of a prepared product, in oneDNN's cache together with ideep's: 236 MB for 400 of them (tests/models/test_prepared.py)."""

_DRAWN = 3
"""Rows of logits, in fp32, that drawing the next token of an answer holds: as they came, mapped, and sorted or summed up."""


@dataclass(frozen=True)
class Memory:
    """Bytes by part. libraries: held before the model is there (on a CPU; an accelerator's own are not counted).

    activations: with everything kept for the backward pass, or with layers recomputed; logits: a chunk of the projection and,
    where the head is trained, its gradient; heap: what the CPU's allocator and prepared products hold beside the tensors;
    reference, reward: weights of models that are loaded beside the one that learns; drawing: what the cache of keys and values
    and the next tokens' logits take while answers are drawn, beyond the activations and logits of a step, which come later.
    """

    libraries: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    heap: int
    reference: int = 0
    reward: int = 0
    drawing: int = 0

    @property
    def total(self) -> int:
        """All parts together."""
        return sum(asdict(self).values())

    @property
    def needed(self) -> int:
        """What is still to be had: the total without what is held already."""
        return self.total - self.libraries

    def lines(self) -> list[str]:
        """One line a part."""
        return [f"{name:<12}{in_gib(size):>10}" for name, size in asdict(self).items() if size]


@dataclass(frozen=True)
class Trained:
    """num: weights that are trained; frozen: that are not; inputs: widths of all inputs of trained linear layers, summed.

    head: whether the output head is trained.
    """

    num: int
    frozen: int
    inputs: int
    head: bool


def in_gib(size: int) -> str:
    """ "1.50 GiB"; below a hundredth of one, "3.2 MiB"."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 // 100 else f"{size / 2**20:.1f} MiB"


def estimate(
    shape: Shape,
    trained: Trained,
    *,
    tokens: int,
    weight_bytes: float,
    trained_weight_bytes: int,
    compute_bytes: int,
    state_bytes: float,
    recompute: bool,
    device: torch.device,
    chunks: int = 2,
    reference: int = 0,
    reward: int = 0,
    answers: int = 0,
    answer_tokens: int = 0,
    logits: bool = True,
) -> Memory:
    """The step's memory.

    tokens: the largest micro-batch; weight_bytes: a frozen base weight (0.5 in 4 bits); trained_weight_bytes: a trained weight;
    compute_bytes: an activation; state_bytes: optimizer state a trained weight; chunks: of logits in fp32, held at once;
    logits: whether the loss is one of log-probs. answers: drawn at once, each of answer_tokens with its prompt.
    """
    mixed = compute_bytes != trained_weight_bytes
    stream = compute_bytes if trained.frozen else trained_weight_bytes
    layer = _layer_bytes(shape, trained, tokens, compute_bytes, mixed=mixed)
    kept = tokens * shape.hidden * stream * shape.num_layers + layer if recompute else layer * shape.num_layers
    casts = trained.num * compute_bytes if mixed else 0  # autocast keeps a copy of each trained weight for the pass
    share = _HEAP_SHARE["recomputed" if recompute else "kept"]
    on_cpu = device.type == "cpu"
    activations = int(kept) + casts
    chunked = _logit_bytes(shape, tokens, chunks, head=trained.head) if logits else 0
    drawing = answers * (answer_tokens * shape.cached * shape.num_layers * compute_bytes + shape.vocabulary * 4 * _DRAWN)
    prepared = KEPT * _PREPARED_BYTES if on_cpu and compute_bytes == 2 and torch.ops.mkldnn._is_mkldnn_bf16_supported() else 0
    return Memory(
        libraries=held_bytes() if on_cpu else 0,
        weights=int(trained.frozen * weight_bytes) + trained.num * trained_weight_bytes,
        gradients=trained.num * trained_weight_bytes,
        optimizer=int(trained.num * state_bytes),
        activations=activations,
        logits=chunked,
        heap=int(layer * shape.num_layers * share) + prepared if on_cpu else 0,
        reference=reference,
        reward=reward,
        drawing=max(0, drawing - activations - chunked),
    )


def _layer_bytes(shape: Shape, trained: Trained, tokens: int, compute_bytes: int, *, mixed: bool) -> float:
    """What one decoder layer keeps: two norms in fp32; q, k, v and the output; gate, its activation and up; inputs; a mask.

    Under mixed precision every trained linear layer keeps a copy of its input of its own; else q, k, v share one, and gate, up.
    """
    norms = 2 * shape.hidden * 4
    attention = 4 * shape.attention * compute_bytes
    feed_forward = 3 * shape.feed_forward * compute_bytes
    inputs = trained.inputs / shape.num_layers * compute_bytes * (1.0 if mixed else 0.5)
    mask = tokens**2 * compute_bytes if shape.masked else 0
    return tokens * (norms + attention + feed_forward + inputs) + mask


def _logit_bytes(shape: Shape, tokens: int, chunks: int, *, head: bool) -> int:
    """Chunks in fp32, such as logits and their gradient; of a trained head also what one chunk adds to its gradient."""
    chunk = min(tokens * shape.vocabulary, max(CHUNK_ELEMENTS, shape.vocabulary))
    return chunk * 4 * chunks + (shape.vocabulary * shape.hidden * 4 if head else 0)


def frozen_bytes(module: nn.Module, compute_bytes: int, bits: int) -> float:
    """Bytes a frozen weight, on average: bitsandbytes holds linear layers but the head in few bits, the rest stays as it is."""
    if not bits:
        return float(compute_bytes)
    head = module.get_output_embeddings()
    small = sum(inner.weight.numel() for inner in module.modules() if isinstance(inner, nn.Linear) and inner is not head)
    total = sum(weight.numel() for weight in module.parameters())
    return (small * bits / 8 + (total - small) * compute_bytes) / total


def held_bytes() -> int:
    """Resident memory of this process now; 0 where the system does not tell (it has no /proc)."""
    path = Path("/proc/self/statm")
    return int(path.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if path.is_file() else 0


def available_bytes(device: torch.device) -> int:
    """Memory that is free now: the accelerator's, or the machine's."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
