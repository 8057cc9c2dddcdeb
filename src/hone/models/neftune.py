"""NEFTune: uniform noise on the input embeddings while training (Jain et al. 2023, section 2).

Does not know the loss or the data; sequences are told apart by their positions.

Axes: B row, T token, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hone.models.policy import Policy


def add_noise(policy: Policy, alpha: float) -> None:
    """Add noise uniform in +-alpha / sqrt(L D) to the embeddings of every training forward, L the token's own sequence's length.

    In packed rows each sequence has its own L, so that packing changes nothing; evaluation is without noise. A beginning that
    two sequences share would have one L, so none is shared.
    """
    policy.can_share = False
    noise = _Noise(alpha)
    policy.causal.register_forward_pre_hook(noise.note_positions, with_kwargs=True)
    policy.causal.get_input_embeddings().register_forward_hook(noise.disturb)


class _Noise:
    def __init__(self, alpha: float):
        self._alpha = alpha
        self._lengths_BT: Tensor | None = None

    def note_positions(self, module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        self._lengths_BT = sequence_lengths(named["position_ids"])

    def disturb(self, module: nn.Module, arguments: tuple[Any, ...], embedded_BTD: Tensor) -> Tensor:
        if not module.training or self._lengths_BT is None:
            return embedded_BTD
        scale_BT = self._alpha / (self._lengths_BT * embedded_BTD.shape[-1]).sqrt()
        noise_BTD = torch.empty_like(embedded_BTD).uniform_(-1, 1)
        return embedded_BTD + noise_BTD * scale_BT.unsqueeze(-1).to(embedded_BTD.dtype)


def sequence_lengths(positions_BT: Tensor) -> Tensor:
    """For each token the length of its sequence, float [B, T]; a sequence starts wherever the position is 0."""
    numbers_BT = (positions_BT == 0).cumsum(dim=1)
    counts_BT = torch.zeros_like(numbers_BT).scatter_add_(1, numbers_BT - 1, torch.ones_like(numbers_BT))
    return counts_BT.gather(1, numbers_BT - 1).float()
