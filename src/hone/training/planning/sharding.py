"""Sharding: what of weights, gradients and optimizer states one process holds, for each way of spreading a model over several.

Does not know the engines' code nor their settings: it is arithmetic on sizes. Activations are each process's own in all of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn

_FP32 = 4


@dataclass(frozen=True)
class Units:
    """Bytes of a model's weights by what is fetched together: of its largest layer, of all outside of layers, of the whole.

    trained_*: of those that learn, whose gradients go the same way. small: of weights too small to be divided where an engine
    leaves those whole.
    """

    layer: int
    outside: int
    whole: int
    trained_layer: int
    trained_outside: int
    trained: int
    small: int = 0


@dataclass(frozen=True)
class Sharding:
    """weights, gradients, states: among how many processes each is divided; 1 where every process has it whole.

    gathered: bytes of weights that are there beside the share while a pass goes on. moved, kept: bytes of gradients on their way
    beside the share, in a pass, and in the optimizer's step. masters: bytes of fp32 copies of a number that learns, divided as
    states are. width: bytes of a number that learns and of its gradient, 0 as it was loaded. offloaded: parts of Memory whose
    shares rest in host memory.
    """

    weights: int = 1
    gradients: int = 1
    states: int = 1
    gathered: int = 0
    moved: int = 0
    kept: int = 0
    masters: int = 0
    width: int = 0
    offloaded: frozenset[str] = frozenset()


ALONE = Sharding()
_EVERYTHING = frozenset({"weights", "adapters", "gradients", "optimizer"})


def by_ddp(world: int, units: Units) -> Sharding:
    """All is whole everywhere; gradients are sent from buckets, which hold all of them once more, for good."""
    return Sharding(moved=units.trained, kept=units.trained) if world > 1 else ALONE


def by_fsdp(world: int, units: Units, *, reshards: bool = True, offloads: bool = False) -> Sharding:
    """All is divided; a layer is gathered before it is used, while the one before or behind it is still, or already, there.

    What is outside of layers is whole through the whole pass, and so are its gradients, as it is one unit with the head.
    reshards: layers are let go after the forward pass; where not, all of them are there when the backward pass begins. Of a
    layer's gradients there are two: as they were made, and in the row that is sent.
    """
    gathered = units.outside + 2 * units.layer if reshards else units.whole
    moved = units.trained_outside + max(2 * units.trained_layer, units.trained_outside)
    return Sharding(world, world, world, gathered, moved, offloaded=_EVERYTHING if offloads else frozenset())


def by_zero(
    stage: int,
    world: int,
    units: Units,
    *,
    half: bool,
    bucket: int,
    buckets: int = 2,
    live: int = 10**9,
    offloaded: Iterable[str] = (),
) -> Sharding:
    """DeepSpeed's ZeRO: from stage 1 on states and masters are divided, from 2 on gradients, from 3 on weights.

    half: what learns is held in 16 bits, beside its fp32 master. bucket: numbers that are reduced together, in so many buffers
    (two where sending overlaps with the backward pass). live: numbers that may be gathered at once in stage 3, which keeps what
    it will need again as long as there is room. offloaded: "optimizer", and in stage 3 "weights".
    """
    assert stage in (1, 2, 3), "stage 0 is DDP"
    width = 2 if half else _FP32
    gathered = min(units.whole, live * width) + units.small if stage == 3 else 0
    parts = {"weights": ("weights", "adapters"), "optimizer": ("optimizer",)}
    return Sharding(
        weights=world if stage == 3 else 1,
        gradients=world if stage >= 2 else 1,
        states=world,
        gathered=gathered,
        moved=buckets * bucket * width,
        kept=buckets * bucket * width,
        masters=_FP32,
        width=width if half else 0,
        offloaded=frozenset(one for part in offloaded for one in parts[part]),
    )


def units_of(module: nn.Module, layers: Iterable[nn.Module], *, a_frozen: float = 0.0, small: int = 0) -> Units:
    """The units of a model whose weights have shapes, memory or not. small: numbers of the largest weight that stays whole.

    a_frozen: bytes of a frozen number where it is held in few bits, 0 as its type says.
    """

    def size(weights: Iterable[Tensor]) -> int:
        """Bytes of weights as they are held."""
        return int(sum(one.numel() * (one.element_size() if one.requires_grad or not a_frozen else a_frozen) for one in weights))

    def learning(weights: Iterable[Tensor]) -> list[Tensor]:
        return [one for one in weights if one.requires_grad]

    every, by_layer = list(module.parameters()), [list(layer.parameters()) for layer in layers]
    whole, trained = size(every), size(learning(every))
    return Units(
        layer=max(map(size, by_layer)),
        outside=whole - sum(map(size, by_layer)),
        whole=whole,
        trained_layer=max(size(learning(one)) for one in by_layer),
        trained_outside=trained - sum(size(learning(one)) for one in by_layer),
        trained=trained,
        small=size([one for one in every if one.numel() <= small]),
    )


def share(size: int, among: int) -> int:
    """Of `size` bytes divided among so many, what one has at most."""
    return -(-size // among)
