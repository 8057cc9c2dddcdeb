"""Flow: what is on its way beside a process's own share of a model, place by place of a pass, where engines spread it.

Does not know how a pass is rehearsed, nor settings: arithmetic on sizes, as torch 2.13's FSDP2 (`torch/distributed/fsdp/
_fully_shard`) and DeepSpeed 0.19.8's ZeRO (`deepspeed/runtime/zero`) hold them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

Where = Literal[
    "start", "first", "between", "forward", "head", "turn", "head_backward", "arriving", "backward", "leaving", "last", "end"
]
"""The places of a pass: before anything; below the layers; between what ends and the layer that begins; within it; in the head;
at the loss; in the head backward; of a layer backward: before, within, after it; below the layers again; after everything."""


@dataclass(frozen=True)
class Unit:
    """Bytes of what is fetched together. whole: as it is gathered; cast: of that, what is held in another type.

    trained: of the weights that learn as they are held; gradient: of their gradients as a pass forms them; summed: as they are
    summed up over processes.
    """

    whole: int
    cast: int = 0
    trained: int = 0
    gradient: int = 0
    summed: int = 0


@dataclass(frozen=True)
class Flow:
    """Of a process that has all weights: nothing but gradients, which stay. prior: bytes of them from earlier micro-batches.

    adds_up: a weight's new gradient is added to those of earlier micro-batches as soon as it is formed.
    """

    adds_up: ClassVar[bool] = True

    prior: int = 0

    def beside(self, where: Where, layer: int, formed: int, done: int) -> tuple[int, int, int]:
        """Bytes of weights beside the share, of gradients on their way, and of those that have come to rest.

        formed: gradients of this layer and of what is outside; done: of layers that have gone backward.
        """
        return 0, formed, self.prior + done


NOTHING = Flow()


@dataclass(frozen=True)
class Buckets(Flow):
    """DDP: the gradients are there once more, in the buckets that are sent, for good."""

    buckets: int = 0

    def beside(self, where: Where, layer: int, formed: int, done: int) -> tuple[int, int, int]:
        """See Flow."""
        return 0, formed + self.buckets, self.prior + done


@dataclass(frozen=True)
class Shards(Flow):
    """FSDP2: layers are gathered one ahead of the other; what is outside of them is whole from the first forward to the end.

    copies: 1 where a collective works on a copy of what it is given, as gloo's do. ahead: in the forward pass too a layer is
    asked for while the one before it computes. several: gradients of earlier micro-batches are there, in shards, or where `waits`
    whole, in the type in which they are summed up.
    """

    adds_up = False

    layers: tuple[Unit, ...] = ()
    outside: Unit = Unit(0)
    among: int = 1
    reshards: bool = True
    ahead: bool = False
    copies: int = 0
    several: bool = False
    waits: bool = False

    def beside(self, where: Where, layer: int, formed: int, done: int) -> tuple[int, int, int]:
        """See Flow."""
        return self._gathered(where, layer), formed + self._moved(where, layer), self._landed(where, layer)

    def _gathered(self, where: Where, layer: int) -> int:
        """Weights outside of layers, those of layers, and the rows in which they come; each row holds a unit once more."""
        outside = self.outside.whole
        if where in ("start", "first"):
            return 2 * outside
        if where == "end":
            return 0
        return outside + (self._upward if where in ("between", "forward", "head") else self._downward)(where, layer)

    def _upward(self, where: Where, layer: int) -> int:
        """A row is let go when the next is spread out, so that the one can be sent while the other is."""
        there = 0 if self.reshards else sum(self._whole(number) for number in range(layer))
        following = self._whole(layer + 1) if self.ahead else 0
        if where == "between":
            row = self._whole(layer - 1) if layer else self.outside.whole
            return there + row + self._coming(layer)
        if where == "forward":
            return there + 2 * self._whole(layer) + following
        return there + self._whole(layer) * (1 if self.reshards else 2)

    def _downward(self, where: Where, layer: int) -> int:
        """The row of the layer below comes while a layer goes backward; where none was let go, none comes."""
        if not self.reshards:
            return sum(self._whole(number) for number in range(layer + (where != "leaving")))
        own, below = self._whole(layer), self._whole(layer - 1)
        return {
            "turn": self._coming(layer),
            "head_backward": own,
            "arriving": max(2 * own, own + self._coming(layer - 1)),
            "backward": own + below,
            "leaving": below,
            "last": 0,
        }[where]

    def _moved(self, where: Where, layer: int) -> int:
        """Gradients laid end to end to be summed up: those of the layer above, until this one's take their place."""
        if where == "leaving":
            return self._sent(self.layers[layer])
        if where == "end":
            return self._sent(self.outside)
        above = layer + 1 if where in ("arriving", "backward") else 0 if where == "last" else len(self.layers)
        return self.layers[above].summed if above < len(self.layers) else 0

    def _sent(self, unit: Unit) -> int:
        """Beside the gradients as they were formed; once they are laid end to end those are gone, and the share is there."""
        row = unit.summed
        return max(row, (1 + self.copies) * row + row // self.among - unit.gradient)

    def _landed(self, where: Where, layer: int) -> int:
        """This process's shares of what was summed up already, and all that is there from earlier micro-batches."""
        every = [*self.layers, self.outside]
        if self.several and not self.waits:
            return sum(unit.trained for unit in every) // self.among
        first = {"last": 0, "end": 0}.get(where, layer + 1 if where in ("arriving", "backward", "leaving") else len(self.layers))
        shares = sum(unit.trained for unit in self.layers[first:]) // self.among
        wait = [*self.layers[:first], self.outside] if self.several else []
        return shares + sum(unit.summed for unit in wait)

    def _whole(self, layer: int) -> int:
        return self.layers[layer].whole if 0 <= layer < len(self.layers) else 0

    def _coming(self, layer: int) -> int:
        """While a unit is gathered: its row, a collective's copy, and this process's share in the type that is sent."""
        if not 0 <= layer < len(self.layers):
            return 0
        return (1 + self.copies) * self.layers[layer].whole + self.layers[layer].cast // self.among


_UPWARD = ("start", "first", "between", "forward", "head", "turn", "head_backward")
"""The places before the first gradient: the head's is formed last of all that is there."""


@dataclass(frozen=True)
class Partitions(Flow):
    """ZeRO's stages 1 and 2: from the first gradient on there are buckets, and at the end the gradients of this process's part.

    stage 1 keeps whole gradients until the last micro-batch has been backward; stage 2 sends each once the next is there, so that
    no more than the `largest` waits beside the buckets, and keeps its part, in which a weight is whole that lies in it in part.
    offloads: the part goes to the host as it comes, but what several micro-batches add up to is kept beside it.
    """

    stage: int = 2
    buckets: int = 0
    part: int = 0
    largest: int = 0
    several: bool = False
    offloads: bool = False

    @property
    def adds_up(self) -> bool:  # type: ignore[override]
        """See Flow."""
        return self.stage == 1

    def beside(self, where: Where, layer: int, formed: int, done: int) -> tuple[int, int, int]:
        """See Flow."""
        part = 0 if self.offloads else self.part
        if self.stage == 1:
            landed = self.prior + done
            return 0, formed + (self.buckets if where not in _UPWARD else 0), landed + (part if where == "end" else 0)
        landed = self.part * self.several
        if where in _UPWARD:
            return 0, min(formed, self.largest), landed
        return 0, min(formed, self.largest) + self.buckets, landed + part


@dataclass(frozen=True)
class Fetched(Flow):
    """ZeRO's stage 3: a weight is gathered when its module is entered, and let go when it has been used.

    None stays until its backward pass, near as that is (`stage3_max_reuse_distance`): DeepSpeed remembers for good what it let go
    in the first forward passes (the cache of `__params_to_release`), and hone's self-test has none backward.

    standing: weights that are never let go, as they are small or the head's; layers: bytes of each; largest: of one weight and
    its gradient. fetched: bytes that are asked for ahead. bucket, share: of gradients, there for good. copies: see Shards.
    """

    adds_up = False

    layers: tuple[int, ...] = ()
    standing: int = 0
    fetched: int = 0
    bucket: int = 0
    share: int = 0
    largest: int = 0
    copies: int = 0

    def beside(self, where: Where, layer: int, formed: int, done: int) -> tuple[int, int, int]:
        """See Flow. Between a layer's second forward and its backward pass all of its weights are there."""
        used = {"backward": self.layers[layer], "forward": self.fetched, "first": self.largest}.get(where, 0)
        coming = 0 if where in ("start", "end") else self.fetched
        waits = min(formed, self.largest)
        return self.standing + used + coming, self.bucket + waits * (1 + self.copies), self.share
