"""The start-up check of a policy: two short sequences, tapped against plain and packed against apart. Milliseconds.

Does not know what to do about a difference: the policy falls back and says so.

Axes: B row, T token.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hone.models.tap import IGNORE, Untapped

if TYPE_CHECKING:
    from hone.models.policy import Policy

_LENGTHS = (7, 5)
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}
_TOLERANCE_16 = 0.1
"""16-bit logits of size 10 are 0.04 apart."""


@dataclass(frozen=True)
class SelfTest:
    """What was found. difference, packed_difference: the largest of the log-probs, in nats; why: of a model that is not fast."""

    fast: bool
    can_pack: bool
    why: str
    difference: float
    packed_difference: float


@dataclass(frozen=True)
class _Row:
    ids_BT: Tensor
    labels_BT: Tensor
    positions_BT: Tensor
    segments_BT: Tensor


@torch.no_grad()
def compare(policy: Policy) -> SelfTest:
    """Run the sequences through `policy` in evaluation mode, on the device where the model's embeddings are."""
    weight = policy.causal.get_input_embeddings().weight
    tolerance = _TOLERANCE.get(weight.dtype, _TOLERANCE_16)
    if torch.is_autocast_enabled(weight.device.type):
        tolerance = _TOLERANCE_16
    rows = _rows(weight.shape[0], weight.device)
    training = {module: module.training for module in policy.module.modules()}
    policy.module.eval()
    try:
        apart_T = torch.cat([_numbers(policy, row) for row in rows])
        why, difference = ("", 0.0) if policy.scores_texts else _tapped_difference(policy, rows, apart_T)
        if difference > tolerance:
            why = why or f"log-probs differ by {difference:.2g}"
        packed_T = _numbers(policy, _packed(rows))
        packed_difference = max(float((packed_T - apart_T).abs().max()), 2 * _leak(policy, rows, packed_T))
    finally:
        for module, was in training.items():
            module.training = was
    return SelfTest(not why, packed_difference <= tolerance, why, difference, packed_difference)


def _numbers(policy: Policy, row: _Row) -> Tensor:
    """[T], or [T, C]: the log-probs of the row's labels, or the scores at each of its tokens, which only a tap can read."""
    if policy.scores_texts:
        return policy.label_scores(row, row.segments_BT != 0)
    return policy._plain(row)[0]


def _tapped_difference(policy: Policy, rows: list[_Row], apart_T: Tensor) -> tuple[str, float]:
    if not policy.fast:
        return "it has no output head", float("inf")
    try:
        tapped_T = torch.cat([policy._tapped(row)[0] for row in rows])
    except Untapped as reason:
        return str(reason), float("inf")
    return "", float((tapped_T - apart_T).abs().max())


def _leak(policy: Policy, rows: list[_Row], packed_T: Tensor) -> float:
    """How much the second sequence sees of the first: other words there must change nothing. Sharper than packed against apart,

    where 16-bit kernels of other shapes differ by more than a weak leak; so it counts double.
    """
    first, second = rows
    other = replace(first, ids_BT=first.ids_BT.flip(1))
    swapped_T = _numbers(policy, _packed([other, second]))
    start = first.ids_BT.shape[1]
    return float((swapped_T[start:] - packed_T[start:]).abs().max())


def _rows(num_ids: int, device: torch.device) -> list[_Row]:
    rows, start = [], 1
    for length in _LENGTHS:
        ids_BT = ((torch.arange(start, start + length, device=device) * 7919) % num_ids).unsqueeze(0)
        labels_BT = ids_BT.clone()
        labels_BT[:, 0] = IGNORE
        positions_BT = torch.arange(length, device=device).unsqueeze(0)
        rows.append(_Row(ids_BT, labels_BT, positions_BT, torch.ones_like(ids_BT)))
        start += length
    return rows


def _packed(rows: list[_Row]) -> _Row:
    segments = [torch.full_like(row.segments_BT, number) for number, row in enumerate(rows, 1)]
    return _Row(
        torch.cat([row.ids_BT for row in rows], dim=1),
        torch.cat([row.labels_BT for row in rows], dim=1),
        torch.cat([row.positions_BT for row in rows], dim=1),
        torch.cat(segments, dim=1),
    )
