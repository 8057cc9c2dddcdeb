"""Asked: a prompt as a model of this process takes it, the ids and what it is shown with them.

Does not know conversations, nor how an answer is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Asked:
    """ids of a prompt; shown: tensors of its media by the forward's names, nothing where it is text alone."""

    ids: list[int]
    shown: Mapping[str, Tensor] = field(default_factory=dict)
