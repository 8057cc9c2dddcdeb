"""Pooling: one vector a text, of its last token or the mean of all of them; or what a head makes of where it ends.

Does not know what vectors are compared with, nor how texts become tokens.

Axes: B row, T token, N token of a text, S text, D width, C number of a head that scores texts.
"""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor

from hone.models.forward import TokenBatch
from hone.models.policy import Policy

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


def scored(policy: Policy, batch: TextBatch) -> Tensor:
    """fp32 [S, C]: what the head that scores texts makes of each sequence; with gradient."""
    return policy.label_scores(batch, text_ends(batch, policy.causal.config.get_text_config().pad_token_id))


def text_ends(batch: TextBatch, pad_id: int) -> Tensor:
    """bool [B, T]: the last token of every sequence that is not `pad_id`, where transformers' own classifiers read too.

    It matters where a tokenizer ends every text with the token that also pads.
    """
    sequences_BT = batch.sequences_BT
    places_BT = torch.arange(sequences_BT.numel(), device=sequences_BT.device).view_as(sequences_BT)
    real_BT = (sequences_BT >= 0) & (batch.ids_BT != pad_id)
    ends_S = torch.full((batch.num_sequences,), -1, device=sequences_BT.device)
    ends_S = ends_S.scatter_reduce(0, sequences_BT[real_BT], places_BT[real_BT], "amax")
    assert bool((ends_S >= 0).all()), "a text of padding alone"
    return torch.zeros(sequences_BT.numel(), dtype=torch.bool, device=ends_S.device).index_fill(0, ends_S, True).view_as(real_BT)
