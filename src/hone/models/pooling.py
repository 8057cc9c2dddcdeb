"""Pooling: one vector a text, of its last token or the mean of all of them.

Does not know what vectors are compared with, nor how texts become tokens.

Axes: B row, T token, N token of a text, S text, D width.
"""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor

from hone.models.policy import Policy, TokenBatch

Pooling = Literal["last", "mean"]


class TextBatch(TokenBatch, Protocol):
    """A batch that knows its sequences: the number of each token's, -1 for padding, their last tokens, and how many there are."""

    @property
    def sequences_BT(self) -> Tensor: ...
    @property
    def ends_BT(self) -> Tensor: ...
    @property
    def num_sequences(self) -> int: ...


def pooled(policy: Policy, batch: TextBatch, pooling: Pooling) -> Tensor:
    """fp32 [S, D]: the vector of each sequence, not yet of length 1; with gradient."""
    if pooling == "last":
        return policy.hidden(batch, batch.ends_BT).float()
    where_BT = batch.sequences_BT >= 0
    hidden_ND = policy.hidden(batch, where_BT).float()
    owner_N = batch.sequences_BT[where_BT].to(hidden_ND.device)
    sums_SD = hidden_ND.new_zeros(batch.num_sequences, hidden_ND.shape[-1]).index_add(0, owner_N, hidden_ND)
    return sums_SD / torch.bincount(owner_N, minlength=batch.num_sequences).unsqueeze(1)
