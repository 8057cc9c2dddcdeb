"""Sharding: what of weights, gradients and optimizer states one process holds, for each way of spreading a model over several.

Does not know the engines' code nor their settings: it is arithmetic on sizes. Activations are each process's own in all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from hone.training.planning.flow import NOTHING, Buckets, Fetched, Flow, Partitions, Shards, Unit

_FP32 = 4


@dataclass(frozen=True)
class Units:
    """A model's weights by what is fetched together: of each layer, and all that is outside of layers."""

    layers: tuple[Unit, ...]
    outside: Unit

    @property
    def trained(self) -> int:
        """Bytes of the weights that learn."""
        return sum(unit.trained for unit in (*self.layers, self.outside))


@dataclass(frozen=True)
class Sharding:
    """weights, gradients, states: among how many processes each is divided; 1 where every process has it whole.

    flow: what is there beside the shares while a pass goes on. kept: bytes of gradients there beside the share in the optimizer's
    step. masters: bytes of fp32 copies of a number that learns, divided as states are. standing: bytes
    of an engine's own buffers, beside the states. width: bytes of a number that learns and of its gradient, 0 as it was loaded.
    offloaded: parts of Memory whose shares rest in host memory.
    """

    weights: int = 1
    gradients: int = 1
    states: int = 1
    flow: Flow = NOTHING
    kept: int = 0
    masters: int = 0
    standing: int = 0
    width: int = 0
    offloaded: frozenset[str] = frozenset()


ALONE = Sharding()
_EVERYTHING = frozenset({"weights", "adapters", "gradients", "optimizer"})


def alone(units: Units, *, several: bool) -> Sharding:
    """All is one process's. several: gradients of earlier micro-batches are there."""
    return Sharding(flow=Flow(prior=units.trained * several))


def by_ddp(units: Units, *, several: bool) -> Sharding:
    """All is whole everywhere; gradients are sent from buckets, which hold all of them once more, for good."""
    return Sharding(flow=Buckets(prior=units.trained * several, buckets=units.trained), kept=units.trained)


def by_fsdp(among: int, units: Units, *, offloads: bool = False, **how: bool | int) -> Sharding:
    """All is divided; a layer is gathered before it is used, and its gradients are shared out after. how: fields of Shards."""
    flow = Shards(layers=units.layers, outside=units.outside, among=among, **how)
    return Sharding(among, among, among, flow, offloaded=_EVERYTHING if offloads else frozenset())


@dataclass(frozen=True)
class Buffers:
    """ZeRO's, in numbers. reduced: that are summed up together, in `buckets` buffers; fetched: that are asked for ahead.

    small: of the largest weight that is never let go.
    """

    reduced: int = 500_000_000
    buckets: int = 1
    fetched: int = 50_000_000
    small: int = 100_000


def by_zero(
    stage: int,
    among: int,
    weights: Weighed,
    *,
    half: bool,
    buffers: Buffers,
    several: bool = False,
    offloaded: Iterable[str] = (),
    on_cpu: bool = False,
) -> Sharding:
    """DeepSpeed's ZeRO: from stage 1 on states and masters are divided, from 2 on gradients, from 3 on weights.

    half: the model is held in 16 bits, beside fp32 masters of what learns. offloaded: "optimizer", and in stage 3 "weights".
    """
    assert stage in (1, 2, 3), "stage 0 is DDP"
    width, trained = 2 if half else _FP32, sum(weights.trained)
    offloaded, part = tuple(offloaded), width * share(trained, among)
    largest, bucket = width * max(weights.trained), buffers.buckets * buffers.reduced * width
    host = "optimizer" in offloaded
    flow: Flow = Partitions(
        prior=width * trained * (several and stage == 1), stage=stage, buckets=bucket, largest=largest, several=several,
        part=width * most_owned(weights.trained, among), offloads=host,
    )  # fmt: skip
    if stage == 3:
        flow = Fetched(
            layers=tuple(width * size for size in weights.layers), standing=width * weights.standing,
            fetched=width * max(2 * min(buffers.fetched, sum(weights.layers)), weights.largest),
            bucket=bucket // buffers.buckets, share=width * share(trained, among), largest=largest, copies=int(on_cpu),
        )  # fmt: skip
    parts = {"weights": ("weights", "adapters"), "optimizer": ("optimizer",)}
    flat = part + (_FP32 * share(trained, among) if half else 0)
    return Sharding(
        weights=among if stage == 3 else 1,
        gradients=among,
        states=among,
        flow=flow,
        kept=0 if host else flat,
        masters=_FP32 + (_FP32 + width if host and stage < 3 else 0),
        standing=2 * largest if host and stage < 3 else 0,
        width=width if half else 0,
        offloaded=frozenset(one for part in offloaded for one in parts[part]),
    )


@dataclass(frozen=True)
class Weighed:
    """A model's weights in numbers: of each layer; of those always whole; of the largest fetched twice; of each that learns."""

    layers: tuple[int, ...]
    standing: int
    largest: int
    trained: tuple[int, ...]


def weighed(module: nn.Module, layers: Sequence[nn.Module], *, head: nn.Module | None, small: int) -> Weighed:
    """Of a model whose weights have shapes. head: fetched for good; small: numbers of the largest weight that stays whole."""
    stands = {id(one) for one in module.parameters() if one.numel() <= small}
    stands |= {id(one) for one in head.parameters()} if head is not None else set()

    def size(weights: Iterable[Tensor]) -> int:
        return sum(one.numel() for one in weights if id(one) not in stands)

    learning = [one for one in module.parameters() if one.requires_grad]
    inside = {id(one) for layer in layers for one in layer.parameters()}
    return Weighed(
        tuple(size(layer.parameters()) for layer in layers),
        sum(one.numel() for one in module.parameters() if id(one) in stands),
        max(size([one]) for one in module.parameters() if one.requires_grad or id(one) in inside),
        tuple(one.numel() for one in learning),
    )


def most_owned(sizes: Iterable[int], among: int) -> int:
    """Laid end to end and cut among so many: the most that the weights have together of which one of the parts has something."""
    sizes = list(sizes)
    part, start, owned = share(sum(sizes), among), 0, [0] * among
    for size in sizes:
        for number in range(start // part, min(among, -(-(start + size) // part))):
            owned[number] += size
        start += size
    return max(owned)


def units_of(
    module: nn.Module,
    layers: Iterable[nn.Module],
    *,
    a_frozen: float = 0.0,
    width: int = 0,
    summed: int = 0,
) -> Units:
    """The units of a model whose weights have shapes, memory or not.

    a_frozen: bytes of a frozen number where it is held in few bits, 0 as its type says. width: of a number of a layer as it is
    gathered, and of its gradient, and summed: as gradients are summed up; 0 as it is held.
    """
    by_layer = [list(layer.parameters()) for layer in layers]
    inside = {id(one) for weights in by_layer for one in weights}
    outside = [one for one in module.parameters() if id(one) not in inside]
    return Units(
        tuple(_unit(weights, a_frozen, width, summed) for weights in by_layer),
        _unit(outside, a_frozen, 0, 0),
    )


def _unit(weights: list[Tensor], a_frozen: float, width: int, summed: int) -> Unit:
    """width, summed: bytes of a number as it is gathered, and as gradients of it are summed up; 0 as it is held."""
    learning = [one for one in weights if one.requires_grad]
    frozen = [one for one in weights if not one.requires_grad]
    turned = learning if a_frozen else weights
    whole = sum(one.numel() * (width or one.element_size()) for one in turned)
    return Unit(
        whole=whole + int(a_frozen * sum(one.numel() for one in frozen)),
        cast=sum(one.numel() * width for one in turned if one.element_size() != width),
        trained=sum(one.numel() * one.element_size() for one in learning),
        gradient=sum(one.numel() * (width or one.element_size()) for one in learning),
        summed=sum(one.numel() * (summed or one.element_size()) for one in learning),
    )


def share(size: int, among: int) -> int:
    """Of `size` bytes divided among so many, what one has at most."""
    return -(-size // among)
