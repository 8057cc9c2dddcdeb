"""Moments: an optimizer's state by the names of the weights, so that any engine and number of processes goes on with it.

Does not know how the state is stored, nor where the weights lie.

`{"moments": {weight's name: {"exp_avg": tensor, "step": ...}}, "groups": [{"params": [names], "lr": ..., ...}]}`, tensors whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hone.errors import CheckpointError

MOMENTS, GROUPS = "moments", "groups"

Change = Callable[[nn.Parameter, Tensor], Tensor]
"""Of a weight and a tensor of its state: the tensor as it is kept elsewhere."""


def weight_names(module: nn.Module) -> dict[int, str]:
    """Names of the weights by identity, as they are without any wrapper."""
    return {id(weight): plain_name(name) for name, weight in module.named_parameters()}


def plain_name(name: str) -> str:
    """Without what DDP, torch.compile and recomputation put into it."""
    parts = [part for part in name.split(".") if part not in ("_orig_mod", "_checkpoint_wrapped_module")]
    return ".".join(parts[1:] if parts[0] == "module" else parts)


def gather_moments(module: nn.Module, optimizer: torch.optim.Optimizer, change: Change | None = None) -> dict[str, Any]:
    """The state by name. change: of every tensor that lies as its weight does, here to a whole one on the CPU."""
    names = weight_names(module)
    found: dict[str, dict[str, Any]] = {}
    for weight in _weights(optimizer):
        state = optimizer.state.get(weight, {})
        found[names[id(weight)]] = {key: _changed(weight, value, change) for key, value in state.items()}
    settings = [{**group, "params": [names[id(weight)] for weight in group["params"]]} for group in optimizer.param_groups]
    return {MOMENTS: {name: state for name, state in found.items() if state}, GROUPS: settings}


def load_moments(
    module: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any], change: Change | None = None
) -> None:
    """Put `gather_moments`'s state back; the optimizer's own settings stay. change: of every whole tensor to what lies here.

    Raises CheckpointError where it is of other weights.
    """
    names = weight_names(module)
    weights = list(_weights(optimizer))
    mine = [names[id(weight)] for weight in weights]
    state = state_of(mine, state)
    entries = {
        number: {key: _changed(weight, value, change) for key, value in state[MOMENTS][name].items()}
        for number, (name, weight) in enumerate(zip(mine, weights, strict=True))
        if name in state[MOMENTS]
    }
    optimizer.load_state_dict({"state": entries, "param_groups": optimizer.state_dict()["param_groups"]})


def state_of(mine: list[str], state: dict[str, Any]) -> dict[str, Any]:
    """A saved state by name, of any version; CheckpointError where it is of other weights than `mine`, in their order."""
    state = state if MOMENTS in state else _named(state, mine)
    saved = [name for group in state[GROUPS] for name in group["params"]]
    if set(saved) != set(mine):
        only = sorted(set(saved) ^ set(mine))
        raise CheckpointError(f"the optimizer's state is of other weights than those that learn now, such as {only[0]}")
    return state


def _weights(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [weight for group in optimizer.param_groups for weight in group["params"]]


def _changed(weight: nn.Parameter, value: Any, change: Change | None) -> Any:
    """A count of steps, which has no axes, is the same everywhere."""
    return change(weight, value) if change and isinstance(value, Tensor) and value.dim() else value


def _named(state: dict[str, Any], mine: list[str]) -> dict[str, Any]:
    """The state of an earlier version, which knew the weights by their place in the groups."""
    places = [place for group in state["param_groups"] for place in group["params"]]
    if len(places) != len(mine):
        raise CheckpointError(f"the optimizer's state is of {len(places)} weights, and {len(mine)} learn now")
    by_place = dict(zip(places, mine, strict=True))
    groups = [{**group, "params": [by_place[place] for place in group["params"]]} for group in state["param_groups"]]
    return {MOMENTS: {by_place[place]: values for place, values in state["state"].items()}, GROUPS: groups}
