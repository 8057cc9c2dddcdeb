"""Weights that stand in for others for a while: a module whose weights lie in shares shows whole ones to whoever saves it.

Does not know how the shares lie, nor who saves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn


@contextmanager
def stand_in(module: nn.Module, values: Mapping[int, Tensor]) -> Iterator[dict[int, nn.Parameter]]:
    """Within, `values` are the module's weights, by the identity of those they stand for; shared ones stay shared.

    Gives the weights that stand in, so that what was written into them can be read. The others keep their hooks and gradients.
    """
    standing: dict[int, nn.Parameter] = {}
    places = [(owner, name, weight) for owner in module.modules() for name, weight in owner._parameters.items()]
    places = [(owner, name, weight) for owner, name, weight in places if id(weight) in values]
    for owner, name, weight in places:
        other = standing.setdefault(id(weight), nn.Parameter(values[id(weight)], requires_grad=weight.requires_grad))
        owner._parameters[name] = other
    try:
        yield standing
    finally:
        for owner, name, weight in places:
            owner._parameters[name] = weight
