"""Batch: encoded sequences laid out as tensors, packed end to end (the normal case) or padded (where a model cannot pack).

Does not know where the sequences came from, nor what loss will be computed.

Axes: B row, T token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hone.chat.encoded import IGNORE, Encoded


@dataclass(frozen=True)
class Batch:
    """ids_BT, labels_BT, positions_BT: int64. segments_BT: int32, 1, 2, ... for the sequences of a row, 0 for padding.

    labels are not shifted. The first label of every sequence is IGNORE: nothing comes before it.
    rows: the index in the data set of each sequence, in order, to name the culprits of a bad batch.
    """

    ids_BT: Tensor
    labels_BT: Tensor
    positions_BT: Tensor
    segments_BT: Tensor
    rows: tuple[int, ...] = ()

    @property
    def packed(self) -> bool:
        """One row of several sequences without padding."""
        return self.ids_BT.shape[0] == 1

    @property
    def num_trained(self) -> int:
        """How many tokens are learned: the count that divides the loss."""
        return int((self.labels_BT != IGNORE).sum())

    @property
    def num_tokens(self) -> int:
        """How many tokens are not padding."""
        return int((self.segments_BT != 0).sum())

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`."""
        moved = {name: getattr(self, name).to(device, non_blocking=True) for name in _TENSORS}
        return replace(self, **moved)


_TENSORS = ("ids_BT", "labels_BT", "positions_BT", "segments_BT")


def pack(sequences: Sequence[Encoded], rows: Sequence[int] = ()) -> Batch:
    """Lay sequences end to end in one row [1, T]; positions start again at each. No padding."""
    columns = [_columns(sequence, number) for number, sequence in enumerate(sequences, 1)]
    tensors = [torch.cat(column).unsqueeze(0) for column in zip(*columns, strict=True)]
    return Batch(*tensors, rows=tuple(rows))


def pad(sequences: Sequence[Encoded], pad_id: int, rows: Sequence[int] = ()) -> Batch:
    """One row a sequence [B, T], padded on the right to the longest with `pad_id` (segment 0, label IGNORE)."""
    fills = (pad_id, IGNORE, 0, 0)
    columns = zip(*(_columns(sequence, 1) for sequence in sequences), strict=True)
    tensors = [
        torch.nn.utils.rnn.pad_sequence(list(column), batch_first=True, padding_value=fill)
        for column, fill in zip(columns, fills, strict=True)
    ]
    return Batch(*tensors, rows=tuple(rows))


def _columns(sequence: Encoded, number: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    assert len(sequence), "an empty sequence reached a batch"
    ids = torch.as_tensor(sequence.ids, dtype=torch.int64)
    labels = torch.as_tensor(sequence.labels, dtype=torch.int64).clone()
    labels[0] = IGNORE
    return ids, labels, torch.arange(len(ids)), torch.full_like(ids, number, dtype=torch.int32)
