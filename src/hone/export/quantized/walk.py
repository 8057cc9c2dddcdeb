"""Walk a model layer by layer over calibration rows: what a weight reads is summed, the layer is changed, its outputs go on.

Does not know how a layer is changed. One layer's weights are in memory at a time, in fp32, on one device.

Axes: T token, D width, I inputs of a weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hone.adapters.freeze import find_layers
from hone.chat.encoded import Encoded
from hone.errors import ExportError, ModelError


@dataclass
class Reached:
    """A layer with its weights. name: its path in the model; run: its output for the first row, with the weights as they are now.

    By the path of a Linear in it: grams, the sum of x x^T over its inputs x, [I, I] fp32; sources, the path of the module whose
    very output it reads.
    """

    name: str
    layer: nn.Module
    run: Callable[[], Tensor]
    grams: dict[str, Tensor] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)


class _Stopped(Exception):
    """The forward pass has gone as far as it is needed; carries a layer's output."""


@contextmanager
def without_weights() -> Iterator[None]:
    """Modules made inside have buffers, and weights with a shape and no memory (device "meta")."""
    original = nn.Module.register_parameter

    def register(module: nn.Module, name: str, weight: nn.Parameter | None) -> None:
        original(module, name, None if weight is None else nn.Parameter(weight.to("meta"), requires_grad=False))

    nn.Module.register_parameter = register
    try:
        yield
    finally:
        nn.Module.register_parameter = original


@torch.no_grad()
def walk(
    module: PreTrainedModel, read: Callable[[str], Tensor], rows: Sequence[Encoded], device: torch.device
) -> Iterator[Reached]:
    """Every layer in turn; what was done to its weights before the next is asked for is in the inputs of the next.

    module: made under `without_weights`; read: a weight by its name, fp32. Raises: ExportError where it has no list of layers.
    """
    try:
        name, layers = find_layers(module)
    except ModelError as problem:
        raise ExportError(f"{problem}, which GPTQ and AWQ go through; write method rtn") from problem
    module.eval()
    head = module.get_output_embeddings()
    front = [one for path, one in module.named_modules() if not f"{path}.".startswith(f"{name}.") and one is not head]
    paths = {id(one): path for path, one in module.named_modules()}
    for one in front:
        _fill(one, paths[id(one)], read, device)
    states: list[Tensor | None] = [None] * len(rows)
    ids = [torch.tensor([row.ids.tolist()], device=device) for row in rows]
    for number, layer in enumerate(layers):
        path = f"{name}.{number}"
        for inner, one in layer.named_modules():
            _fill(one, f"{path}.{inner}".rstrip("."), read, device)
        reached = Reached(path, layer, partial(_through, module, layer, ids[0], states[0]))
        with _watched(reached):
            for row, state in zip(ids, states, strict=True):
                _through(module, layer, row, state)
        yield reached
        states = [_through(module, layer, row, state) for row, state in zip(ids, states, strict=True)]
        _empty(layer)
        layer.forward = _pass_on
        if number == 0:
            _empty(module.get_input_embeddings())


def _fill(module: nn.Module, path: str, read: Callable[[str], Tensor], device: torch.device) -> None:
    for name, _ in list(module.named_parameters(recurse=False)):
        weight = read(f"{path}.{name}" if path else name)
        module._parameters[name] = nn.Parameter(weight.to(device, torch.float32), requires_grad=False)
    for name, buffer in module.named_buffers(recurse=False):
        module._buffers[name] = buffer.to(device)


def _empty(module: nn.Module) -> None:
    for one in module.modules():
        for name, weight in one.named_parameters(recurse=False):
            one._parameters[name] = nn.Parameter(weight.to("meta"), requires_grad=False)


def _pass_on(hidden: Tensor, *_: object, **__: object) -> Tensor:
    """In place of a layer whose outputs are kept."""
    return hidden


def _through(module: PreTrainedModel, layer: nn.Module, ids_1T: Tensor, state_1TD: Tensor | None) -> Tensor:
    """The output of `layer`, [1, T, D], called by the model itself, so that masks and positions are its own.

    state: what the layer reads; None at the first, which reads the embeddings.
    """

    def instead(_: nn.Module, arguments: tuple) -> tuple:
        return arguments if state_1TD is None else (state_1TD, *arguments[1:])

    def stop(_: nn.Module, __: tuple, output: Tensor | tuple) -> None:
        raise _Stopped(output[0] if isinstance(output, tuple) else output)

    hooks = layer.register_forward_pre_hook(instead), layer.register_forward_hook(stop)
    told = {"input_ids": ids_1T} if state_1TD is None else {"inputs_embeds": torch.zeros_like(state_1TD)}
    try:
        module(**told, use_cache=False)
    except _Stopped as stopped:
        return stopped.args[0]
    finally:
        for hook in hooks:
            hook.remove()
    raise AssertionError("the model went past a layer without calling it")


@contextmanager
def _watched(reached: Reached) -> Iterator[None]:
    """While inside, what each Linear of the layer reads is summed."""
    hooks, given = [], {}

    def gave(path: str) -> Callable:
        return lambda module, _, output: given.__setitem__(path, output)

    def reads(path: str) -> Callable:
        def add(_: nn.Module, arguments: tuple) -> None:
            inputs_NI = arguments[0].flatten(0, -2).float()
            gram_II = inputs_NI.T @ inputs_NI
            reached.grams[path] = reached.grams[path] + gram_II if path in reached.grams else gram_II
            source = next((name for name, output in given.items() if output is arguments[0]), None)
            if source is not None:
                reached.sources[path] = source

        return add

    for path, one in reached.layer.named_modules():
        if isinstance(one, nn.Linear):
            hooks.append(one.register_forward_pre_hook(reads(path)))
        elif not list(one.children()) and getattr(one, "weight", None) is not None and one.weight.dim() == 1:
            hooks.append(one.register_forward_hook(gave(path)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
