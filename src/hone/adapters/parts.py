"""Parts of a model that takes media: the tower that looks or listens, the projector behind it, the language model.

Does not know families: parts are told by the names that transformers gives their modules.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from hone.config.adapter import Adapter
from hone.errors import ModelError

PartName = Literal["vision tower", "projector", "language model"]
_PROJECTORS = {"merger", "multi_modal_projector"}
_USUAL = {"freeze_vision_tower": True, "freeze_multi_modal_projector": True, "freeze_language_model": False}
_TOWERS = {"visual", "vision_tower", "audio_tower"}


def part_of(path: str) -> PartName:
    """The part that a module or weight of this path belongs to."""
    words = set(path.split("."))
    if words & _PROJECTORS:
        return "projector"
    return "vision tower" if words & _TOWERS else "language model"


def takes_media(module: nn.Module) -> bool:
    """Whether the model has other parts than a language model."""
    return any(part_of(path) != "language model" for path, _ in module.named_modules())


def resting(module: nn.Module, adapter: Adapter) -> frozenset[PartName]:
    """The parts that learn nothing. Raises ModelError for settings of parts that the model has not."""
    frozen: dict[PartName, bool] = {
        "vision tower": adapter.freeze_vision_tower,
        "projector": adapter.freeze_multi_modal_projector,
        "language model": adapter.freeze_language_model,
    }
    if not takes_media(module):
        for key, usual in _USUAL.items():
            if vars(adapter)[key] != usual:
                raise ModelError(f"{key}: {type(module).__name__} is a language model alone; leave the key out")
        return frozenset()
    return frozenset(part for part, rests in frozen.items() if rests)


def rest(module: nn.Module, adapter: Adapter) -> nn.Module:
    """Let the weights of resting parts learn nothing."""
    parts = resting(module, adapter)
    for path, weight in module.named_parameters():
        if part_of(path) in parts:
            weight.requires_grad_(False)
    return module
