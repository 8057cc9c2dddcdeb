"""Sight: what a model's forward is given beside the ids where it takes media: their tensors, which tokens are theirs, places.

Does not know files, nor what is done with the forward's output.

Axes: B row, T token, S sequence.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hone.errors import ModelError
from hone.models.media.families import Family, family_of

TYPES: Mapping[str, int] = {"image": 1, "video": 2, "audio": 3}
"""transformers' numbers of kinds; 0 is text."""


class Sight:
    """`Sight.of(causal)`: None for a model of text alone. packs: whether its sequences may lie in one packed row."""

    def __init__(self, causal: PreTrainedModel, family: Family):
        self._family, self.packs = family, family.packs
        self._tokens = {kind: getattr(causal.config, one.token) for kind, one in family.kinds.items()}
        self._rope_index = causal.model.get_rope_index if family.folded else None

    @classmethod
    def of(cls, causal: PreTrainedModel, *, shows_media: bool = True) -> Sight | None:
        """The sight of a model; shows_media: whether it is shown any, without which only M-RoPE makes a difference."""
        family = family_of(causal.config)
        return cls(causal, family) if family is not None and (shows_media or family.folded) else None

    def inputs(self, ids_BT: Tensor, shown: Sequence[Mapping[str, Tensor]]) -> dict[str, Any]:
        """What the forward takes of media: the tensors of all sequences in order, and which tokens are theirs where it asks."""
        found: dict[str, Any] = joined(shown)
        if self._family.types and found:
            found[self._family.types] = self._types(ids_BT)
        return found

    def require(self, ids_BT: Tensor, shown: Sequence[Mapping[str, Tensor]]) -> None:
        """Raise ModelError for tokens of media with which nothing is shown: the model would read them as a word."""
        if not shown and any(bool((ids_BT == token).any()) for token in self._tokens.values()):
            raise ModelError("the ids hold tokens of pictures or sounds, and nothing is shown with them here")

    def places(self, ids_BT: Tensor, segments_BT: Tensor, positions_BT: Tensor, shown: Sequence[Mapping[str, Tensor]]) -> Tensor:
        """Position ids: positions_BT; for M-RoPE int64 [4, B, T]: those, which tell sequences apart, and the three of each token.

        shown: of each sequence in order; () where none is shown anything.
        """
        if self._rope_index is None:
            return positions_BT
        folded_3BT = positions_BT.expand(3, *positions_BT.shape).clone()
        packed = len(ids_BT) == 1
        for number, tensors in enumerate(shown):
            if tensors:
                row = 0 if packed else number
                here_T = segments_BT[row] == number + 1 if packed else segments_BT[row] != 0
                folded_3BT[:, row, here_T] = self._folded(ids_BT[row, here_T].unsqueeze(0), tensors)[:, 0]
        return torch.cat([positions_BT.unsqueeze(0), folded_3BT])

    def behind(self, ids_1T: Tensor, tensors: Mapping[str, Tensor]) -> int:
        """How much less than its number the place of a token is that follows a prompt: what its pictures save."""
        if self._rope_index is None or not tensors:
            return 0
        return ids_1T.shape[1] - 1 - int(self._folded(ids_1T, tensors).max())

    def _folded(self, ids_1T: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
        """int64 [3, 1, T] of one sequence."""
        assert self._rope_index is not None, "a model without M-RoPE"
        known = inspect.signature(self._rope_index).parameters
        told = {name: one.to(ids_1T.device) for name, one in tensors.items() if name in known}
        return self._rope_index(ids_1T, mm_token_type_ids=self._types(ids_1T), **told)[0]

    def _types(self, ids_BT: Tensor) -> Tensor:
        types_BT = torch.zeros_like(ids_BT, dtype=torch.int32)
        for kind, token in self._tokens.items():
            types_BT[ids_BT == token] = TYPES[kind]
        return types_BT


def joined(shown: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of all sequences, one behind the other, by name."""
    names = dict.fromkeys(name for tensors in shown for name in tensors)
    return {name: torch.cat([tensors[name] for tensors in shown if name in tensors]) for name in names}
