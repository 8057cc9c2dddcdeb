"""The start-up check of a policy: two short sequences, tapped against plain, packed and sharing a beginning against apart.

Milliseconds.

Does not know what to do about a difference: the policy falls back and says so.

Axes: B row, T token.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hone.errors import ModelError
from hone.kernels.tolerance import rounding_of
from hone.models.attention_packed import UNREAD
from hone.models.tap import IGNORE, Untapped

if TYPE_CHECKING:
    from hone.models.context import Context
    from hone.models.policy import Policy

_LENGTHS = (7, 5)


@dataclass(frozen=True)
class SelfTest:
    """What was found. difference, packed_difference: the largest of the log-probs, in nats; why: of a model that is not fast.

    why_mixed: how packed sequences differ, or what a forward of them raises; "" where they may be packed.
    """

    fast: bool
    can_pack: bool
    why: str
    difference: float
    packed_difference: float
    why_mixed: str


@dataclass(frozen=True)
class _Row:
    ids_BT: Tensor
    labels_BT: Tensor
    positions_BT: Tensor
    segments_BT: Tensor

    @property
    def known(self) -> _Row:
        return self

    @property
    def shown(self) -> None:
        return None


@torch.no_grad()
def compare(policy: Policy) -> SelfTest:
    """Run the sequences through `policy`, which is in evaluation mode, on the device where the model is."""
    weight = policy.causal.get_input_embeddings().weight
    tolerance, rows = _tolerance(weight), _rows(_num_ids(policy), policy.causal.device)
    apart_T = torch.cat([_numbers(policy, row) for row in rows])
    why, difference = ("", 0.0) if policy.scores_texts else _tapped_difference(policy, rows, apart_T)
    if difference > tolerance:
        why = why or f"log-probs differ by {difference:.2g}"
    packed_difference, why_mixed = _packed_difference(policy, rows, apart_T)
    if packed_difference > tolerance:
        why_mixed = why_mixed or f"a difference of {packed_difference:.2g} in the self-test"
    return SelfTest(not why, not why_mixed, why, difference, packed_difference, why_mixed)


def _packed_difference(policy: Policy, rows: list[_Row], apart_T: Tensor) -> tuple[float, str]:
    """Of packed sequences from the same apart, and what a forward raises that reads no such row."""
    try:
        packed_T = _numbers(policy, _packed(rows))
        return max(float((packed_T - apart_T).abs().max()), 2 * _leak(policy, rows, packed_T)), ""
    except UNREAD as problem:
        if not policy.by_sequence:
            raise
        return float("inf"), f"its forward reads no row without one: {problem}"


def _numbers(policy: Policy, row: _Row) -> Tensor:
    """[T], or [T, C]: the log-probs of the row's labels, or the scores at each of its tokens, which only a tap can read."""
    if policy.scores_texts:
        return policy.label_scores(row, row.segments_BT != 0)
    return policy._plain(row)[0]


@torch.no_grad()
def sharing_differs(policy: Policy) -> str:
    """How two sequences whose beginning stands once differ from the two by themselves; "" where they do not.

    The first is tried in another place and beside other words too, which must change nothing.
    """
    weight = policy.causal.get_input_embeddings().weight
    first, second = (row.ids_BT[0] for row in _rows(_num_ids(policy), policy.causal.device))
    beginning, tail = first[:4], first[4:]
    alone = [_row(torch.cat([beginning, one]), number=1, given=len(beginning)) for one in (tail, second)]
    apart_N = torch.cat([_learned(policy, row) for row in alone])
    try:
        shared_N = _learned(policy, _shared(beginning, tail, second))
        moved_N = _learned(policy, _shared(beginning, second.flip(0), tail))[-len(tail) :]
    except UNREAD as problem:
        return f"its forward reads no such mask: {problem}"
    difference = max(float((shared_N - apart_N).abs().max()), 2 * float((moved_N - shared_N[: len(tail)]).abs().max()))
    return "" if difference <= _tolerance(weight) else f"a difference of {difference:.2g} in the self-test"


@torch.no_grad()
def cutting_differs(policy: Policy, context: Context) -> str:
    """How the log-probs of a packed row that is cut over processes differ from the whole row's; "" where they do not."""
    weight = policy.causal.get_input_embeddings().weight
    row = _packed(_rows(_num_ids(policy), policy.causal.device))
    whole_BT = policy.token_logprobs(row)
    policy.context = context
    try:
        difference = float((policy.token_logprobs(row) - whole_BT).abs().max())
    except ModelError as problem:
        return str(problem)
    except UNREAD as problem:
        return f"its forward reads no part of one: {problem}"
    finally:
        policy.context = None
    return "" if difference <= _tolerance(weight) else f"a difference of {difference:.2g} in the self-test"


def _learned(policy: Policy, row: _Row) -> Tensor:
    return policy._plain(row)[row.labels_BT != IGNORE]


def _tolerance(weight: Tensor) -> float:
    return rounding_of(torch.bfloat16 if torch.is_autocast_enabled(weight.device.type) else weight.dtype)


def _tapped_difference(policy: Policy, rows: list[_Row], apart_T: Tensor) -> tuple[str, float]:
    if not policy.fast:
        return "it has no output head, or computes its loss itself", float("inf")
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


def _num_ids(policy: Policy) -> int:
    """As the config says: the embeddings themselves have no rows where they lie in shares until they are used."""
    return policy.causal.config.get_text_config().vocab_size


def _rows(num_ids: int, device: torch.device) -> list[_Row]:
    rows, start = [], 1
    for length in _LENGTHS:
        ids_T = (torch.arange(start, start + length, device=device) * 7919) % num_ids
        rows.append(_row(ids_T, number=1))
        start += length
    return rows


def _row(ids_T: Tensor, number: int, start: int = 0, given: int = 1) -> _Row:
    """Segment `number`, from position `start` on; the first `given` tokens are not learned."""
    labels_T = ids_T.clone()
    labels_T[:given] = IGNORE
    positions_T = torch.arange(start, start + len(ids_T), device=ids_T.device)
    return _Row(*(one.unsqueeze(0) for one in (ids_T, labels_T, positions_T, torch.full_like(ids_T, number))))


def _packed(rows: list[_Row]) -> _Row:
    return _joined([replace(row, segments_BT=torch.full_like(row.segments_BT, number)) for number, row in enumerate(rows, 1)])


def _shared(beginning_T: Tensor, *tails: Tensor) -> _Row:
    """The beginning but its last token once, then that token with each of the tails, which are learned."""
    cut = len(beginning_T) - 1
    parts = [torch.cat([beginning_T[cut:], tail]) for tail in tails]
    branches = [_row(part, number, start=cut) for number, part in enumerate(parts, 1)]
    return _joined([_row(beginning_T[:cut], number=-1, given=cut), *branches])


def _joined(rows: list[_Row]) -> _Row:
    return _Row(*(torch.cat([getattr(row, one.name) for row in rows], dim=1) for one in fields(_Row)))
