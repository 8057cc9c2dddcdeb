"""Which fused operation a module computes, found by its structure and proven by a self-check: its new forward, or None.

Does not know families or their names; the sizes of the check are small whatever the module's are.

Axes: B row, H head, T token, D width, R part of a head that is turned.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from hone.kernels import gated, rms_norm, rope
from hone.kernels.passes import Passes
from hone.kernels.rms_norm import Norm
from hone.kernels.rope import Rope
from hone.kernels.selfcheck import COARSE, FINE, Observed, all_observed, drawn

Forward = Callable[..., Any]
"""Of a module: its first argument is the module."""
Pick = Callable[[Tensor], Passes]
"""The passes for a tensor like this one."""

_EPSILONS = ("variance_epsilon", "eps")
_APART = (("gate_proj", "up_proj", "down_proj"), ("w1", "w3", "w2"))
_JOINT = ("gate_up_proj", "down_proj")
_ACTIVATIONS = {"act_fn", "activation_fn"}
_ROTATES = "apply_rotary_pos_emb"


def looks_like_norm(module: nn.Module) -> bool:
    """Whether it scales its one input with a small constant and at most one weight."""
    names = {name for name, weight in module._parameters.items() if weight is not None}
    small = any(isinstance(vars(module).get(name), float) for name in _EPSILONS)
    return small and names <= {"weight"} and not module._modules and not module._buffers and _takes(module) == 1


def fit_norm(module: nn.Module, pick: Pick) -> Forward | None:
    """For RMS norms, with the weight's offset and the order of rounding that the module has."""
    epsilon = next(vars(module)[name] for name in _EPSILONS if isinstance(vars(module).get(name), float))
    observed = _normalised(module)
    if module._parameters.get("weight") is None:
        bare = Norm(epsilon)
        same = _all_same(observed, lambda x: rms_norm.fused(x, None, bare, pick(x)), rounds_alike=True)
        return (lambda self, x: rms_norm.fused(x, None, bare, pick(x))) if same else None
    for norm in (Norm(epsilon), Norm(epsilon, 1.0, False), Norm(epsilon, 0.0, False)):
        if _all_same(observed, lambda x, weight, norm=norm: rms_norm.fused(x, weight, norm, pick(x)), rounds_alike=True):
            return lambda self, x, norm=norm: rms_norm.fused(x, self.weight, norm, pick(x))
    return None


def _normalised(module: nn.Module) -> list[Observed]:
    """What the module's forward makes of inputs and weights of either type."""
    weight, generator, clone = module._parameters.get("weight"), torch.Generator().manual_seed(0), _clone(module)
    device, width = (torch.device("cpu"), 64) if weight is None else (weight.device, len(weight))

    def own(x: Tensor, weight: Tensor | None = None) -> Tensor:
        vars(clone)["_parameters"] = {"weight": weight}
        return type(module).forward(clone, x)

    def inputs(of_x: torch.dtype, of_weight: torch.dtype) -> list[Tensor]:
        both = [drawn(generator, (3, width), of_x, device), drawn(generator, (width,), of_weight, device)]
        return both if weight is not None else both[:1]

    observed = all_observed(own, [inputs(one, other) for one in (COARSE, FINE) for other in (COARSE, FINE)])
    return observed if len(observed) == 4 else []


def _all_same(observed: list[Observed], way: Callable[..., Any], *, rounds_alike: bool = False) -> bool:
    """Whether there is anything to compare, and all of it is the same."""
    return bool(observed) and all(one.same(way, rounds_alike=rounds_alike) for one in observed)


def looks_gated(module: nn.Module) -> bool:
    """Whether it has the linear layers of a gated product and nothing else but an activation."""
    layers = set(module._modules) - _ACTIVATIONS
    return any(layers == set(names) for names in (*_APART, _JOINT)) and not module._parameters and _takes(module) == 1


def fit_gated(module: nn.Module, pick: Pick) -> Forward | None:
    """For down(act(gate(x)) * up(x)); the layers are called as they are, so they may be anything (LoRA, 4 bits)."""
    clone, generator = _clone(module), torch.Generator().manual_seed(0)
    device = next((weight.device for weight in module.parameters()), torch.device("cpu"))
    shapes = {"gate_up_proj": (24, 8), "down_proj": (8, 12), "w2": (8, 12)}
    layers = {name: layer for name, layer in module._modules.items() if name in _ACTIVATIONS}
    for name in sorted(set(module._modules) - _ACTIVATIONS):
        layers[name] = _Small(drawn(generator, shapes.get(name, (12, 8)), FINE, device).detach())
    vars(clone)["_modules"] = layers
    inputs = [[drawn(generator, (1, 3, 8), kind, device)] for kind in (FINE, COARSE)]
    observed = all_observed(lambda x: type(module).forward(clone, x), inputs)
    for act in gated.ACTS:
        forward = _gated_forward(module, act, pick)
        if _all_same(observed, lambda x, forward=forward: forward(clone, x)):
            return forward
    return None


def _gated_forward(module: nn.Module, act: gated.Act, pick: Pick) -> Forward:
    names = next((names for names in _APART if names[0] in module._modules), None)
    if names is None:

        def joint(self: nn.Module, x: Tensor) -> Tensor:
            gate, up = self.gate_up_proj(x).chunk(2, dim=-1)
            return self.down_proj(gated.fused(gate, up, act, pick(gate)))

        return joint
    gate_name, up_name, down_name = names

    def apart(self: nn.Module, x: Tensor) -> Tensor:
        gate = getattr(self, gate_name)(x)
        return getattr(self, down_name)(gated.fused(gate, getattr(self, up_name)(x), act, pick(gate)))

    return apart


class _Small(nn.Module):
    """A linear layer of a few numbers in the place of a large one."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.to(x.dtype).T


def looks_like_experts(module: nn.Module) -> bool:
    """Whether it holds the gates and ups of all experts as one weight, and multiplies them in a method of its own."""
    return module._parameters.get("gate_up_proj") is not None and hasattr(type(module), "_apply_gate")


def fit_experts(module: nn.Module, pick: Pick) -> Forward | None:
    """For the product alone: the method `_apply_gate`. The grouped matrix products around it are transformers' own."""
    device, generator = module._parameters["gate_up_proj"].device, torch.Generator().manual_seed(0)
    inputs = [[drawn(generator, (5, 24), kind, device)] for kind in (FINE, COARSE)]
    observed = all_observed(lambda both: type(module)._apply_gate(module, both), inputs)
    for act in gated.ACTS:

        def multiply(self: nn.Module, both: Tensor, act: gated.Act = act) -> Tensor:
            gate, up = both.chunk(2, dim=-1)
            return gated.fused(gate, up, act, pick(gate))

        if _all_same(observed, lambda both, of=multiply: of(module, both)):
            return multiply
    return None


def looks_rotary(module: nn.Module) -> bool:
    """Whether its forward calls its file's function for rotary codes, with queries and keys."""
    forward = type(module).forward
    if not isinstance(forward, FunctionType) or _ROTATES not in forward.__code__.co_names:
        return False
    own = forward.__globals__.get(_ROTATES)
    return isinstance(own, FunctionType) and list(inspect.signature(own).parameters)[:4] == ["q", "k", "cos", "sin"]


def fit_rotary(module: nn.Module, pick: Pick) -> Forward | None:
    """The module's own forward, for which that function, and nothing else, is another one.

    Nothing of transformers is changed: the copy has the same code and its own names.
    """
    forward = type(module).forward
    own = forward.__globals__[_ROTATES]
    observed = _turned(own, next((weight.device for weight in module.parameters()), torch.device("cpu")))
    for kind, table in _ROTATIONS:
        turn = _rotation(own, kind, table, pick)
        if _all_same(observed, turn):
            names = {**forward.__globals__, _ROTATES: turn}
            made = FunctionType(forward.__code__, names, forward.__name__, forward.__defaults__, forward.__closure__)
            made.__kwdefaults__ = forward.__kwdefaults__
            return made
    return None


def _each_twice(angles_BTR: Tensor) -> Tensor:
    return angles_BTR[..., : angles_BTR.shape[-1] // 2].repeat_interleave(2, dim=-1)


def _both_halves(angles_BTR: Tensor) -> Tensor:
    return torch.cat([angles_BTR, angles_BTR], dim=-1)


_ROTATIONS: tuple[tuple[Rope, Callable[[Tensor], Tensor] | None], ...] = (
    *((Rope(pairs, in_fp32), None) for pairs in (False, True) for in_fp32 in (False, True)),
    *((Rope(True, in_fp32), _each_twice) for in_fp32 in (False, True)),
    (Rope(), _both_halves),
)
"""What families do: Llama, OLMo, Cohere; GLM and ERNIE, who use half of their angles twice; GPT-OSS, who has only that half."""


def _rotation(own: FunctionType, kind: Rope, table: Callable[[Tensor], Tensor] | None, pick: Pick) -> Forward:
    def turn(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
        if unsqueeze_dim != 1 or cos.dim() != 3:
            return own(q, k, cos, sin, unsqueeze_dim)
        if table is not None:
            cos, sin = table(cos), table(sin)
        return rope.fused(q, k, cos, sin, kind, pick(q))

    return turn


def _turned(own: Forward, device: torch.device) -> list[Observed]:
    """What `own` makes of heads with angles for all of a head or for half of it, where it takes them, in fitting types."""
    generator = torch.Generator().manual_seed(0)

    def inputs(head: torch.dtype, angle: torch.dtype, width: int) -> list[Tensor]:
        heads = [drawn(generator, (1, num, 3, 8), head, device) for num in (2, 1)]
        return [*heads, *(drawn(generator, (1, 3, width), angle, device).detach() for _ in range(2))]

    kinds = ((FINE, FINE), (COARSE, COARSE), (COARSE, FINE))
    return all_observed(own, [inputs(*kind, width) for width in (8, 4) for kind in kinds])


def _clone(module: nn.Module) -> nn.Module:
    """The same module while it trains, whose parts can be replaced without touching the first."""
    clone = copy.copy(module)
    vars(clone)["training"] = True
    for name in ("_parameters", "_modules", "_buffers"):
        vars(clone)[name] = dict(vars(module)[name])
    return clone


def _takes(module: nn.Module) -> int:
    """Arguments of its forward, without itself."""
    return len(inspect.signature(type(module).forward).parameters) - 1
