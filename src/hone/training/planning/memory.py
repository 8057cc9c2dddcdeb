"""Memory: an estimate, before anything is loaded, of the most that a process will hold in training, by part.

Does not know how a pass is rehearsed, nor how to save memory. On a CPU it includes what Python and its libraries hold already.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from hone.kernels import spare
from hone.models.prepared import KEPT
from hone.optim.adamw_bf16 import CHUNK, SCRATCH
from hone.training.planning.sharding import Sharding, share

_HEAP_SHARE = {"kept": 0.12, "recomputed": 0.06}
"""Of all bytes that a pass forms on a CPU: glibc's heap holds it beside the tensors, as they come and go in every size. Chosen to
give what bench/plan_memory.py saw when it was a share of what layers keep."""

_DEVICE_SHARE = 0.05
"""The same of what an accelerator holds for a pass, at its highest. Assumed: bench/gpu/plan_memory.py has not run on a device."""

_PREPARED_BYTES = 600_000
"""Of a prepared product, in oneDNN's cache together with ideep's: 236 MB for 400 of them (tests/models/test_prepared.py)."""

_MOMENTS = {"sgd": 0, "adagrad": 1, "rmsprop": 1, "lion_32bit": 1, "lion_8bit": 1, "paged_lion_32bit": 1, "paged_lion_8bit": 1}
"""Numbers that an optimizer holds for each weight, where they are not Adam's two."""

_BLOCK, _SMALLEST = 256, 4096
"""bitsandbytes scales so many 8-bit states together, and holds those of weights of fewer numbers in fp32."""


@dataclass(frozen=True)
class Memory:
    """Bytes by part, when all together are the most: in a pass, or in the optimizer's step, which has no activations.

    libraries: held before the model is there (on a CPU; an accelerator's own are not counted). weights: of the base, also those
    that are trained in place; adapters: beside it. activations: what layers keep, and what is at work; logits: chunks of the head
    and, where the head is trained, its gradient. fragmentation: what the allocator, and on a CPU prepared products, hold beside
    the tensors. reference, reward: weights of models that are loaded beside the one that learns; drawing: what the cache of keys
    and values and the next tokens' logits take while answers are drawn, beyond the activations and logits of a step. host: what
    rests in the host's memory, beside the device's.
    """

    libraries: int
    weights: int
    adapters: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    fragmentation: int
    reference: int = 0
    reward: int = 0
    drawing: int = 0
    host: int = 0

    @property
    def total(self) -> int:
        """All parts of the device together."""
        return sum(asdict(self).values()) - self.host

    @property
    def needed(self) -> int:
        """What is still to be had: the total without what is held already."""
        return self.total - self.libraries

    def lines(self) -> list[str]:
        """One line a part."""
        return [f"{name:<14}{sized(size, self.total):>14}" for name, size in asdict(self).items() if size]


@dataclass(frozen=True)
class Weights:
    """Of a whole model, in bytes as they will be held. largest: of those that learn; beside: they are an adapter.

    states: of the optimizer; tensors: how many learn; expanded: of the largest weight held in few bits, once it is turned into
    numbers for a product; hosted: what stays in the host's memory and is not in `frozen`.
    """

    num: int
    num_trained: int
    frozen: int
    trained: int
    largest: int
    states: int
    beside: bool
    expanded: int = 0
    hosted: int = 0
    tensors: int = 0


def sized(size: int, whole: int) -> str:
    """ "1.50 GiB", or "3.2 MiB" where `whole` is below a GiB: what stands beside the whole that it is a part of has its unit."""
    unit, length, digits = ("GiB", 2**30, 2) if whole >= 2**30 else ("MiB", 2**20, 1)
    least = 10**-digits
    return f"under {least:g} {unit}" if 0 < size < least * length else f"{size / length:,.{digits}f} {unit}"


def add_up(
    weights: Weights,
    held: dict[str, int],
    *,
    formed: int,
    optimizer: str,
    recomputes: bool,
    sharding: Sharding,
    half: bool,
    device: torch.device,
) -> Memory:
    """A step's memory without what is loaded beside the model. held: bytes of a pass at its highest, as Pass.most gives them.

    formed: bytes of all that a pass forms; recomputes: some of them in the backward pass, again; half: it computes in 16 bits.
    sharding: what of all that is this process's.
    """
    on_cpu, width = device.type == "cpu", sharding.width
    held = dict(held)
    in_host, gathered, landed = (held.pop(part, 0) for part in ("host", "gathered", "landed"))
    at_once, trained = sum(held.values()) + landed, width * weights.num_trained or weights.trained
    learned, scratch = share(trained, sharding.weights), share(step_scratch(optimizer, weights, device), sharding.states)
    gradients = share(trained, sharding.gradients)
    if gradients + sharding.kept + scratch > sum(held.values()) + gathered + landed:
        held, gathered, landed = {"activations": 0, "logits": 0, "gradients": sharding.kept}, 0, gradients
    else:
        scratch = 0
    shares = {
        "weights": share(weights.frozen, sharding.weights) + (0 if weights.beside else learned),
        "adapters": learned if weights.beside else 0,
        "gradients": landed,
        "optimizer": share(weights.states + sharding.masters * weights.num_trained, sharding.states) + sharding.standing,
    }
    host = {} if on_cpu else {part: shares.pop(part) for part in sharding.offloaded}
    prepared = KEPT * _PREPARED_BYTES if on_cpu and half and torch.ops.mkldnn._is_mkldnn_bf16_supported() else 0
    return Memory(
        libraries=held_bytes() if on_cpu else 0,
        weights=shares.get("weights", 0) + gathered,
        adapters=shares.get("adapters", 0),
        gradients=shares.get("gradients", 0) + held["gradients"],
        optimizer=shares.get("optimizer", 0) + scratch,
        activations=held["activations"],
        logits=held["logits"],
        fragmentation=int(formed * _HEAP_SHARE["recomputed" if recomputes else "kept"]) + prepared
        if on_cpu
        else int(at_once * _DEVICE_SHARE),
        host=sum(host.values()) + in_host + weights.hosted,
    )


def state_bytes(kind: str, weights: Iterable[Tensor]) -> int:
    """What the optimizer `kind` holds of the weights that learn, from the first step on; paged ones too."""
    total = 0
    for weight in weights:
        if kind == "adafactor":
            rows = weight.numel() // weight.shape[-1] + weight.numel() // weight.shape[-2] if weight.dim() > 1 else weight.numel()
            total += 4 * rows
        elif "8bit" in kind and weight.numel() >= _SMALLEST:
            total += _MOMENTS.get(kind, 2) * (weight.numel() + 4 * -(-weight.numel() // _BLOCK))
        else:
            width = 2 if kind == "adamw_bf16" else 4 if "bit" in kind or "paged" in kind else weight.element_size()
            total += _MOMENTS.get(kind, 2) * weight.numel() * width
    return total


def step_scratch(kind: str, weights: Weights, device: torch.device) -> int:
    """What an optimizer's step holds beside weights, gradients and states: torch's take all weights at once on a GPU."""
    if kind == "adamw_bf16":
        return SCRATCH * min(CHUNK, weights.largest * weights.num_trained // weights.trained)
    if kind not in ("adamw_torch", "adagrad", "rmsprop"):
        return 4 * weights.largest if kind == "adafactor" else 0
    return weights.trained if device.type == "cuda" else 2 * weights.largest


def frozen_bytes(module: nn.Module, compute_bytes: int, bits: int, *, double: bool = True) -> float:
    """Bytes a frozen weight, on average: bitsandbytes holds linear layers but the head in few bits, the rest stays as it is.

    A scale for each 64 weights in 4 bits, itself in 8 bits where `double`; one for each row in 8 bits.
    """
    if not bits:
        return float(compute_bytes)
    head = module.get_output_embeddings()
    small = [inner.weight for inner in module.modules() if isinstance(inner, nn.Linear) and inner is not head]
    num = sum(weight.numel() for weight in small)
    scales = num / 64 * (1 + 4 / 256 if double else 4) if bits == 4 else sum(4 * len(weight) for weight in small)
    total = sum(weight.numel() for weight in module.parameters())
    return (num * bits / 8 + scales + (total - num) * compute_bytes) / total


def held_bytes() -> int:
    """Resident memory of this process now; 0 where the system does not tell (it has no /proc)."""
    path = Path("/proc/self/statm")
    return int(path.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if path.is_file() else 0


def available_bytes(device: torch.device) -> int:
    """Memory that is free now, as `spare` knows; where the system does not say, what nothing is in."""
    free = spare.available_bytes(device)
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if free is None else free
