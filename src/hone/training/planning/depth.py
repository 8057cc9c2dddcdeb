"""Depth: which layers of a model are alike, and what a whole pass holds and takes, told from a rehearsal of one of each.

Does not know what a layer computes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from hone.training.planning.flow import Flow, Where
from hone.training.planning.rehearsal import PARTS, Segment


@dataclass(frozen=True)
class Depth:
    """chosen: the layers that are rehearsed; like: for each layer of the whole model, which of the chosen stands for it."""

    chosen: tuple[int, ...]
    like: tuple[int, ...]


@dataclass(frozen=True)
class Place:
    """bytes: held at most there, by part, without the gradients of layers that have gone backward before: those are `done`.

    layer: the one that begins, is computed or has just gone backward; the last above the layers, and 0 below them.
    """

    where: Where
    layer: int
    bytes: tuple[int, ...]
    done: int = 0


@dataclass(frozen=True)
class Pass:
    """places: what is held, in order; formed: bytes of all that is made; seconds: of attention, and of all else."""

    places: tuple[Place, ...]
    formed: int
    attention_seconds: float
    other_seconds: float

    def most(self, flow: Flow, parts: int = 1) -> dict[str, int]:
        """Bytes by part where all together are the most, with what an engine has under way there.

        "gathered": weights beside the share; "gradients": those that are formed or sent; "landed": those that have come to rest.
        parts: of so many that rows are cut into, what is formed of them is one's; gradients are whole.
        """
        found = []
        for place in self.places:
            sizes = zip(PARTS, place.bytes, strict=True)
            held = {part: size if part == "gradients" else size // parts for part, size in sizes}
            gathered, moved, landed = flow.beside(place.where, place.layer, held["gradients"], place.done)
            found.append({**held, "gradients": moved, "gathered": gathered, "landed": landed})
        most = max(found, key=lambda held: sum(held.values()) - held["host"])
        return {**most, "host": max(held["host"] for held in found)}


def find_alike(layers: nn.ModuleList, config: Any, *, learns_before: bool) -> Depth:
    """One layer of each kind. learns_before: whether something below the layers has a gradient.

    Layers are alike where their weights are, the config calls them the same, and something below both or neither learns.
    The last is like no other: what it gives does not go to a layer. Nor is the one below the first that learns: what it gives
    is kept, and what others give that do not learn is not.
    """
    kinds: dict[tuple, int] = {}
    like, chosen, below = [], [], learns_before
    named = getattr(config, "layer_types", None) or [""] * len(layers)
    learns = [any(one.requires_grad for one in layer.parameters()) for layer in layers]
    first = -1 if learns_before or True not in learns else learns.index(True)
    for number, layer in enumerate(layers):
        weights = tuple((name, one.shape, one.dtype, one.requires_grad) for name, one in layer.named_parameters())
        kind = (type(layer).__name__, named[number], weights, below, number == len(layers) - 1, number == first - 1)
        if kind not in kinds:
            kinds[kind] = len(chosen)
            chosen.append(number)
        like.append(kinds[kind])
        below = below or learns[number]
    return Depth(tuple(chosen), tuple(like))


def cut(layers: nn.ModuleList, config: Any, depth: Depth) -> nn.ModuleList:
    """The chosen layers alone, in their order, and `config` changed to say so."""
    whole = len(layers)
    for key, value in vars(config).items():
        if isinstance(value, list) and len(value) == whole:
            setattr(config, key, [value[number] for number in depth.chosen])
    config.num_hidden_layers = len(depth.chosen)
    return nn.ModuleList(layers[number] for number in depth.chosen)


def whole_pass(segments: list[Segment], like: tuple[int, ...], expanded: int = 0) -> Pass:
    """What a pass through layers that are `like` those of the segments holds, place by place, and how long it takes.

    expanded: bytes of what is there within a layer alone: a weight of few bits as the numbers of a product.
    """
    forward = {one.layer: one for one in segments if one.layer >= 0 and not one.backward}
    backward = {one.layer: one for one in segments if one.layer >= 0 and one.backward}
    turn = next((number for number, one in enumerate(segments) if one.backward), len(segments)) - 1
    rows, within = list(like), _of("activations", expanded)
    kept = [segments[turn].end[row] for row in rows]
    places = [
        *_on_the_way_up(segments[: turn + 1], forward, rows, kept, within),
        *_on_the_way_down(backward, segments[-1].end, rows, kept, within),
    ]
    # Once all layers have gone backward, the last of them alone has passed something on.
    last = segments[-1].end
    rest, done = _without_gradients(sum((last[row] for row in rows), np.zeros_like(last[-1])))
    for one in segments:
        if one.layer < 0 and one.backward:
            places.append(_place("last", 0, rest + one.peak[-1] + one.peak[rows[0]] - last[rows[0]], done))
    places.append(_place("end", 0, rest + last[-1], done))
    walked = [one for one in segments if one.layer < 0]
    walked += [pass_[row] for pass_ in (forward, backward) for row in rows if row in pass_]
    return Pass(
        tuple(places),
        sum(one.formed for one in walked),
        sum(one.attention_seconds for one in walked),
        sum(one.other_seconds for one in walked),
    )


def _on_the_way_up(
    segments: list[Segment], forward: dict[int, Segment], rows: list[int], kept: list[np.ndarray], within: np.ndarray
) -> Iterator[Place]:
    """What a layer made is held until its own backward segment; what it gave and does not keep, only while the next reads it."""
    keeps, last = segments[-1].end, len(rows) - 1
    below, passed_on = np.zeros_like(keeps[-1]), np.zeros_like(keeps[-1])
    yield _place("start", 0, below)
    outside = [one for one in segments if one.layer < 0]
    for number, one in enumerate(outside):
        left = len(outside) - number
        where: Where = {1: "head_backward", 2: "head"}.get(left, "between" if number else "first")
        yield _place(where, 0 if number == 0 < left - 2 else last, _between(one.peak, keeps, rows))
        if where == "head":
            yield _place("turn", last, _between(one.end, keeps, rows))
    for layer, (row, rest) in enumerate(zip(rows, kept, strict=True)):
        outer = forward[row].peak[-1]
        yield _place("between", layer, below + passed_on + outer)
        yield _place("forward", layer, below + passed_on + forward[row].peak[row] + outer + within)
        below, passed_on = below + rest, forward[row].end[row] - rest


def _on_the_way_down(
    backward: dict[int, Segment], last: np.ndarray, rows: list[int], kept: list[np.ndarray], within: np.ndarray
) -> Iterator[Place]:
    """What a backward segment passes on is held until the next, and the rest for good."""
    below, nothing = sum(kept, np.zeros_like(last[-1])), np.zeros_like(last[-1])
    above, passed_on, done = nothing, nothing, 0
    for layer in range(len(rows) - 1, -1, -1):
        row = rows[layer]
        if row not in backward:
            below = below - kept[layer]
            continue
        one, around = backward[row], above + backward[row].peak[-1]
        yield _place("arriving", layer, below + passed_on + around, done)
        below = below - kept[layer]
        yield _place("backward", layer, below + one.peak[row] + passed_on + around + within, done)
        yield _place("leaving", layer, below + one.end[row] + around, done)
        rest, gradients = _without_gradients(last[row])
        passed_on, above, done = one.end[row] - last[row], above + rest, done + gradients


def _place(where: Where, layer: int, held: np.ndarray, done: int = 0) -> Place:
    return Place(where, layer, tuple(int(size) for size in held), done)


def _of(part: str, size: int) -> np.ndarray:
    return np.array([size if one == part else 0 for one in PARTS])


def _without_gradients(held: np.ndarray) -> tuple[np.ndarray, int]:
    gradients = int(held[PARTS.index("gradients")])
    return held - _of("gradients", gradients), gradients


def _between(held: np.ndarray, keeps: np.ndarray, rows: list[int]) -> np.ndarray:
    """What is held outside of layers: of each layer what it keeps, and more of the one alone that has just given something."""
    stays = np.minimum(held, keeps)
    return sum((stays[row] for row in rows), (held - stays)[:-1].sum(0) + held[-1])
