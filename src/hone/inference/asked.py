"""Asked: a prompt as a model of this process takes it, the ids and what it is shown with them.

Does not know conversations, nor how an answer is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from hone.models.forward import find_causal
from hone.models.media.sight import Sight


@dataclass(frozen=True)
class Asked:
    """ids of a prompt; shown: tensors of its media by the forward's names, nothing where it is text alone."""

    ids: list[int]
    shown: Mapping[str, Tensor] = field(default_factory=dict)


def media_inputs(module: nn.Module, ids_BT: Tensor, shown: Sequence[Mapping[str, Tensor]]) -> dict[str, Any]:
    """What `generate` takes beside left-padded ids: the tensors of all prompts in order, on their device."""
    sight = Sight.of(find_causal(module)) if any(shown) else None
    found = {} if sight is None else sight.inputs(ids_BT, shown)
    return {name: one.to(ids_BT.device) for name, one in found.items()}
