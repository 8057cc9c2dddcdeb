"""Depth: which layers of a model are alike, and what a whole pass holds and takes, told from a rehearsal of one of each.

Does not know what a layer computes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from hone.training.planning.rehearsal import DEVICE, PARTS, Segment


@dataclass(frozen=True)
class Depth:
    """chosen: the layers that are rehearsed; like: for each layer of the whole model, which of the chosen stands for it."""

    chosen: tuple[int, ...]
    like: tuple[int, ...]


@dataclass(frozen=True)
class Pass:
    """bytes: by part, where all together are the most; formed: all that is made; seconds: of attention, and of all else."""

    bytes: dict[str, int]
    formed: int
    attention_seconds: float
    other_seconds: float


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
    """What a pass through layers that are `like` those of the segments holds at most, and how long it takes.

    expanded: bytes of what is there within a layer alone: a weight of few bits as the numbers of a product.

    What each layer made is held until its own backward segment, but what it gave and does not keep only while the next one reads
    it; what the backward segment passes on is held until the next, and the rest for good.
    """
    forward = {one.layer: one for one in segments if one.layer >= 0 and not one.backward}
    backward = {one.layer: one for one in segments if one.layer >= 0 and one.backward}
    outside = [one for one in segments if one.layer < 0]
    turn = next((number for number, one in enumerate(segments) if one.backward), len(segments)) - 1
    nothing, rows, last = np.zeros(len(PARTS), np.int64), list(like), segments[-1].end
    within = np.array([expanded if part == "activations" else 0 for part in PARTS])
    after = [forward[row].end[row] for row in rows]
    kept = [segments[turn].end[row] for row in rows]
    found = [_between(one.peak, segments[turn].end, rows) for one in outside if not one.backward]
    # Once all layers have gone backward, the last of them alone has passed something on.
    ends = [one.peak[-1] + one.peak[rows[0]] - last[rows[0]] for one in outside if one.backward]
    found += [sum((last[row] for row in rows), end) for end in ends]
    below, passed_on = nothing, nothing
    for row, own, rest in zip(rows, after, kept, strict=True):
        found.append(below + passed_on + forward[row].peak[row] + forward[row].peak[-1] + within)
        below, passed_on = below + rest, own - rest
    below, above, passed_on = sum(kept, nothing), nothing, nothing
    for row, own in zip(rows[::-1], kept[::-1], strict=True):
        below = below - own
        if row not in backward:
            continue
        found.append(below + backward[row].peak[row] + backward[row].peak[-1] + passed_on + above + within)
        passed_on, above = backward[row].end[row] - last[row], above + last[row]
    most = max(found, key=lambda bytes_P: int(bytes_P @ DEVICE))
    most[PARTS.index("host")] = max(one[PARTS.index("host")] for one in found)
    walked = outside + [pass_[row] for pass_ in (forward, backward) for row in rows if row in pass_]
    return Pass(
        {part: int(size) for part, size in zip(PARTS, most, strict=True)},
        sum(one.formed for one in walked),
        sum(one.attention_seconds for one in walked),
        sum(one.other_seconds for one in walked),
    )


def _between(held: np.ndarray, keeps: np.ndarray, rows: list[int]) -> np.ndarray:
    """What is held outside of layers: of each layer what it keeps, and more of the one alone that has just given something."""
    stays = np.minimum(held, keeps)
    return sum((stays[row] for row in rows), (held - stays)[:-1].sum(0) + held[-1])
