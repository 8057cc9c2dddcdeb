"""Freeze: some layers learn, the first or the last, and the rest of the model stays as it is.

Does not know adapters that are added to a model.
"""

from __future__ import annotations

from torch import nn

from hone.adapters.full import refuse_quantized
from hone.adapters.parts import part_of, rest, resting
from hone.adapters.targets import score_head
from hone.config.adapter import Freeze
from hone.errors import ModelError
from hone.table import nearest


def attach_freeze(module: nn.Module, adapter: Freeze, *, base_name: str, trainable: bool) -> nn.Module:
    """Let the chosen modules of the chosen layers learn, and embeddings that grew, and a head that scores texts.

    Raises ModelError for more layers than there are, and unknown names.
    """
    if not trainable:
        return module
    refuse_quantized(module, adapter.kind, base_name)
    try:
        prefix, layers = find_layers(module)
    except ModelError as problem:
        raise ModelError(f"finetuning_type: freeze: {problem}") from problem
    chosen = _choose(layers, adapter.freeze_trainable_layers, base_name)
    extra = [part for name in adapter.freeze_extra_modules for part in _outside(module, prefix, name)]
    extra += [part for name in vars(module).get("resized_modules", ()) for part in _outside(module, prefix, name)]
    if (head := score_head(module)) is not None:
        extra.append(head)
    module.requires_grad_(False)
    for layer in chosen:
        for name in adapter.freeze_trainable_modules:
            for part in [layer] if name == "all" else _inside(layer, name):
                part.requires_grad_(True)
    for part in extra:
        part.requires_grad_(True)
    return rest(_waken(module, adapter), adapter)


def _waken(module: nn.Module, adapter: Freeze) -> nn.Module:
    """Parts beside the language model learn whole where the settings do not freeze them."""
    still = resting(module, adapter)
    for path, weight in module.named_parameters():
        if part_of(path) != "language model" and part_of(path) not in still:
            weight.requires_grad_(True)
    return module


def find_layers(module: nn.Module) -> tuple[str, nn.ModuleList]:
    """The model's layers and their path: the first list as long as the config's num_hidden_layers; ModelError without one."""
    count = module.config.get_text_config().num_hidden_layers
    for name, inner in module.named_modules():
        if isinstance(inner, nn.ModuleList) and len(inner) == count and part_of(name) == "language model":
            return name, inner
    raise ModelError(f"{type(module).__name__} has no list of {count} layers")


def _choose(layers: nn.ModuleList, number: int, base_name: str) -> list[nn.Module]:
    if number == 0 or abs(number) > len(layers):
        raise ModelError(
            f"freeze_trainable_layers: {number}; {base_name} has {len(layers)} layers: "
            f"write 1 to {len(layers)} for the last ones, -1 to -{len(layers)} for the first ones"
        )
    return list(layers)[-number:] if number > 0 else list(layers)[:-number]


def _inside(layer: nn.Module, name: str) -> list[nn.Module]:
    return _matching("freeze_trainable_modules", dict(layer.named_modules()), name)


def _outside(module: nn.Module, prefix: str, name: str) -> list[nn.Module]:
    others = {
        path: inner
        for path, inner in module.named_modules()
        if not path.startswith(f"{prefix}.") and next(inner.parameters(), None) is not None
    }
    return _matching(
        "freeze_extra_modules", {path: inner for path, inner in others.items() if path and not prefix.startswith(path)}, name
    )


def _matching(key: str, modules: dict[str, nn.Module], name: str) -> list[nn.Module]:
    found = [inner for path, inner in modules.items() if path == name or path.endswith(f".{name}")]
    if not found:
        words = sorted({path.rpartition(".")[-1] for path in modules if path})
        raise ModelError(f'{key}: no module is called "{name}"{nearest(name, words)}; there are {", ".join(words)}')
    return found
