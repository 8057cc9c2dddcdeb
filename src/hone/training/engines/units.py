"""Units of sharding: the modules whose weights are gathered, used and let go together, found by structure.

Does not know how anything is sharded.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from hone.errors import TrainingError
from hone.models.forward import find_causal
from hone.table import nearest

_FEW = 0.1
"""Of the weights: where fewer learn, their gradients are kept whole until a step's last micro-batch, and sent once."""


def find_units(module: nn.Module, names: Sequence[str] = ()) -> list[nn.Module]:
    """The layers of the model inside `module`: of the classes that are named, else those its family says to keep in one piece.

    Raises TrainingError for a class that is not there, and where no layers are found.
    """
    causal = find_causal(module)
    kinds = {type(inner).__name__ for inner in causal.modules()}
    for name in names:
        if name not in kinds:
            raise TrainingError(f"fsdp_transformer_layer_cls_to_wrap: no module is a {name}{nearest(name, sorted(kinds))}")
    asked = [inner for inner in causal.modules() if type(inner).__name__ in names]
    found = asked or _layers(causal)
    if not found:
        raise TrainingError(
            f"fsdp: {type(causal).__name__} has no list of layers to shard one by one; name the class of its layers under "
            "fsdp_transformer_layer_cls_to_wrap"
        )
    return found


def few_learn(module: nn.Module) -> bool:
    """Whether so few of its weights learn that their gradients may wait, whole, for a step's last micro-batch."""
    sizes = [(weight.numel(), weight.requires_grad) for weight in module.parameters()]
    return sum(size for size, learns in sizes if learns) < _FEW * sum(size for size, _ in sizes)


def _layers(causal: nn.Module) -> list[nn.Module]:
    """Members of lists whose class the family names; of a family that names none, of lists as long as its depth."""
    whole = set(getattr(causal, "_no_split_modules", None) or ())
    depth = causal.config.get_text_config().num_hidden_layers
    lists = [inner for inner in causal.modules() if isinstance(inner, nn.ModuleList)]
    named = [layer for one in lists for layer in one if type(layer).__name__ in whole]
    return named or [layer for one in lists if len(one) == depth for layer in one]
