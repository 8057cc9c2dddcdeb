"""Batch: sequences of examples laid out as tensors, packed end to end (the normal case) or padded (where a model cannot pack).

Of sequences that begin alike, as the answers to one prompt, the beginning may lie in a packed row once (`share`).

Does not know where the sequences came from, nor what loss will be computed.

Axes: B row, T token, S sequence, E example.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hone.chat.encoded import IGNORE, Encoded, Example


@dataclass(frozen=True)
class Batch:
    """ids_BT, labels_BT, positions_BT: int64. segments_BT: int32, 1, 2, ... for the sequences of a row, 0 for padding, SHARED for

    a beginning of the sequences that stand between it and the next token at position 0.

    labels are not shifted. The first label of every sequence is IGNORE: nothing comes before it.
    rows: the index in the data set of each example, in order, to name the culprits of a bad batch.
    parts: how many sequences each example has, in order; values_E: fp32, each example's number.
    shown: what the model is shown with each sequence, in order, by the names of its forward; () where it is shown nothing.
    aside: further tensors by name that belong to the sequences, [S], to the tokens, [B, T] beside ids_BT, or to all, scalars.
    host: the batch that this one was copied from to a device, None where there is none.
    """

    ids_BT: Tensor
    labels_BT: Tensor
    positions_BT: Tensor
    segments_BT: Tensor
    rows: tuple[int, ...] = ()
    parts: tuple[int, ...] = ()
    values_E: Tensor | None = None
    shown: tuple[Mapping[str, Tensor], ...] = ()
    aside: Mapping[str, Tensor] = field(default_factory=dict)
    host: Batch | None = None

    @property
    def known(self) -> Batch:
        """The same on the host, where it can be looked at without waiting for a device; itself where nobody knows better."""
        return self if self.host is None else self.host

    @property
    def num_sequences(self) -> int:
        """S."""
        return sum(self.parts)

    @property
    def sequences_BT(self) -> Tensor:
        """int64: the number, from 0, of the sequence a token belongs to; -1 for padding and what is shared."""
        if self.packed:
            return self.segments_BT.long().clamp(min=0) - 1
        rows_B1 = torch.arange(len(self.ids_BT), device=self.ids_BT.device).unsqueeze(1)
        return torch.where(self.segments_BT != 0, rows_B1, -1)

    def sums(self, values_BT: Tensor) -> Tensor:
        """[S]: the sum of the values of each sequence's tokens, padding and what is shared left out; with gradient."""
        sequences_BT = self.sequences_BT
        real_BT = sequences_BT >= 0
        zeros_S = torch.zeros(self.num_sequences, dtype=values_BT.dtype, device=values_BT.device)
        return zeros_S.index_add(0, sequences_BT[real_BT], values_BT[real_BT])

    @property
    def ends_BT(self) -> Tensor:
        """bool: the last token of every sequence, in order."""
        sequences_BT = self.sequences_BT
        after_BT = torch.nn.functional.pad(sequences_BT[:, 1:], (0, 1), value=-1)
        return (sequences_BT >= 0) & (after_BT != sequences_BT)

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
        """The tokens of all sequences: no padding; what is shared counts for each, so that the layout changes nothing."""
        return int((self.positions_BT[self.ends_BT] + 1).sum())

    def side(self, number: int) -> Batch:
        """Sequence `number` of every example alone, in the same layout."""
        assert not (self.segments_BT == SHARED).any(), "a side of sequences that share a beginning"
        parts = torch.tensor(self.parts)
        wanted = (parts.cumsum(0) - parts + number).to(self.ids_BT.device)
        if self.packed:
            here = torch.isin(self.sequences_BT[0], wanted)
            laid = {name: getattr(self, name)[:, here] for name in _TENSORS}
            laid["segments_BT"] = torch.searchsorted(wanted, self.sequences_BT[:, here]).int() + 1
            aside_BT = {name: one[:, here] for name, one in self.aside.items() if one.dim() == 2}
        else:
            width = int((self.segments_BT[wanted] != 0).sum(1).max())
            laid = {name: getattr(self, name)[wanted, :width] for name in _TENSORS}
            aside_BT = {name: one[wanted, :width] for name, one in self.aside.items() if one.dim() == 2}
        aside = {name: one[wanted] if one.dim() == 1 else one for name, one in self.aside.items() if one.dim() < 2}
        shown = tuple(self.shown[index] for index in wanted.tolist()) if self.shown else ()
        return replace(self, **laid, parts=(1,) * len(self.parts), shown=shown, aside={**aside, **aside_BT}, host=None)

    def halves(self) -> tuple[Batch, Batch]:
        """The first half of the examples and the others, each in the same layout; needs two examples or more."""
        assert len(self.parts) > 1, "half an example"
        first = (len(self.parts) + 1) // 2
        return self._slice(0, first), self._slice(first, len(self.parts))

    def _slice(self, start: int, end: int) -> Batch:
        """Examples `start` up to `end` alone."""
        before, through = sum(self.parts[:start]), sum(self.parts[:end])
        if self.packed:
            here = slice(self._begin(before), self._begin(through))
            cut = lambda one: one[:, here]  # noqa: E731
        else:
            width = int((self.segments_BT[before:through] != 0).sum(1).max())
            cut = lambda one: one[before:through, :width]  # noqa: E731
        laid = {name: cut(getattr(self, name)) for name in _TENSORS}
        if self.packed:
            laid["segments_BT"] = torch.where(laid["segments_BT"] > 0, laid["segments_BT"] - before, laid["segments_BT"])
        by_axes = (lambda one: one, lambda one: one[before:through], cut)  # of all, of sequences, of tokens
        aside = {name: by_axes[one.dim()](one) for name, one in self.aside.items()}
        rows, values_E = self.rows[start:end], None if self.values_E is None else self.values_E[start:end]
        laid |= {"rows": rows, "parts": self.parts[start:end], "shown": self.shown[before:through]}
        return replace(self, **laid, values_E=values_E, aside=aside, host=None)

    def _begin(self, sequence: int) -> int:
        """The place in a packed row where a sequence begins, with what it shares with those behind it."""
        found = (self.sequences_BT[0] == sequence).nonzero()
        if not len(found):
            return self.ids_BT.shape[1]
        begin = int(found[0])
        while begin and self.segments_BT[0, begin - 1] == SHARED:
            begin -= 1
        return begin

    def beside(self, numbers: Mapping[str, float]) -> Batch:
        """The same batch with `numbers`, which belong to all of it, aside as fp32 scalars."""
        return replace(self, aside={**self.aside, **{name: torch.tensor(one) for name, one in numbers.items()}})

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`; the copy is not waited for where this one is pinned."""
        return replace(self._each(lambda tensor: tensor.to(device, non_blocking=True)), host=self.known)

    def pinned(self) -> Batch:
        """The same batch in memory that stays where it is, from which a CUDA device copies while it computes."""
        return self._each(Tensor.pin_memory)

    def tensors(self) -> list[Tensor]:
        """All that it holds, in order."""
        found: list[Tensor] = []
        self._each(lambda tensor: found.append(tensor) or tensor)
        return found

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        laid = {name: change(getattr(self, name)) for name in _TENSORS}
        values_E = None if self.values_E is None else change(self.values_E)
        aside, shown = _changed(self.aside, change), tuple(_changed(one, change) for one in self.shown)
        return replace(self, **laid, values_E=values_E, aside=aside, shown=shown)


SHARED = -1
"""The segment of tokens that belong to several sequences. None of them is learned."""
_TENSORS = ("ids_BT", "labels_BT", "positions_BT", "segments_BT")
Aside = Mapping[str, Sequence[np.ndarray | float]]
"""By name, for each sequence in order, a number or one number a token."""


def pack(examples: Sequence[Encoded | Example], rows: Sequence[int] = (), aside: Aside | None = None) -> Batch:
    """Lay the sequences end to end in one row [1, T]; positions start again at each. No padding. An Encoded is an example."""
    sequences, parts, values_E = _flat(examples)
    columns = [_columns(sequence, number) for number, sequence in enumerate(sequences, 1)]
    beside = {name: _row_of(numbers, torch.cat, 1) for name, numbers in (aside or {}).items()}
    shown = _shown(sequences)
    return Batch(*_end_to_end(columns), rows=tuple(rows), parts=parts, values_E=values_E, shown=shown, aside=beside)


def share(examples: Sequence[Example], rows: Sequence[int] = (), aside: Aside | None = None) -> Batch:
    """As `pack`, but the prompt that the sequences of an example have in common lies there once, without its last token.

    Each sequence begins with that token and goes on from its position, so that it still predicts what follows. aside: numbers
    of sequences alone.
    """
    sequences, parts, values_E = _flat(examples)
    assert not any(one.shown.parts for one in sequences), "media of sequences that share a beginning"
    columns, number = [], 1
    for example in examples:
        cut = max(example.num_shared - 1, 0)
        whole = [_columns(sequence, index) for index, sequence in enumerate(example.sequences, number)]
        *beginning, segments = (column[:cut] for column in whole[0])
        columns.append((*beginning, torch.full_like(segments, SHARED)))
        columns += [tuple(column[cut:] for column in one) for one in whole]
        number += len(whole)
    beside = {name: _row_of(numbers, torch.cat, 1) for name, numbers in (aside or {}).items()}
    assert all(one.dim() == 1 for one in beside.values()), "numbers of tokens beside sequences that share some"
    return Batch(*_end_to_end(columns), rows=tuple(rows), parts=parts, values_E=values_E, aside=beside)


def pad(examples: Sequence[Encoded | Example], pad_id: int, rows: Sequence[int] = (), aside: Aside | None = None) -> Batch:
    """One row a sequence [B, T], padded on the right to the longest with `pad_id` (segment 0, label IGNORE)."""
    sequences, parts, values_E = _flat(examples)
    fills = (pad_id, IGNORE, 0, 0)
    columns = zip(*(_columns(sequence, 1) for sequence in sequences), strict=True)
    tensors = [_padded(list(column), fill) for column, fill in zip(columns, fills, strict=True)]
    beside = {name: _row_of(numbers, _padded, 0) for name, numbers in (aside or {}).items()}
    shown = _shown(sequences)
    return Batch(*tensors, rows=tuple(rows), parts=parts, values_E=values_E, shown=shown, aside=beside)


def _changed(tensors: Mapping[str, Tensor], change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    return {name: change(one) for name, one in tensors.items()}


def _shown(sequences: Sequence[Encoded]) -> tuple[Mapping[str, Tensor], ...]:
    """The tensors of each sequence's media, whose files are read here; () where no sequence has any."""
    if not any(one.shown.parts for one in sequences):
        return ()
    return tuple(one.shown.tensors() for one in sequences)


def _flat(examples: Sequence[Encoded | Example]) -> tuple[list[Encoded], tuple[int, ...], Tensor]:
    whole = [one if isinstance(one, Example) else Example((one,)) for one in examples]
    sequences = [sequence for example in whole for sequence in example.sequences]
    parts = tuple(len(example.sequences) for example in whole)
    return sequences, parts, torch.tensor([example.value for example in whole], dtype=torch.float32)


def _end_to_end(columns: list[tuple[Tensor, ...]]) -> list[Tensor]:
    return [torch.cat(column).unsqueeze(0) for column in zip(*columns, strict=True)]


def _padded(column: list[Tensor], fill: float = 0) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(column, batch_first=True, padding_value=fill)


def _row_of(numbers: Sequence[np.ndarray | float], lay: Any, add_axes: int) -> Tensor:
    """A number a sequence as fp32 [S]; numbers a token as fp32 [B, T], laid out as the ids are."""
    if all(np.ndim(one) == 0 for one in numbers):
        return torch.tensor([float(one) for one in numbers], dtype=torch.float32)
    laid = lay([torch.as_tensor(np.asarray(one), dtype=torch.float32) for one in numbers])
    return laid.unsqueeze(0) if add_axes else laid


def _columns(sequence: Encoded, number: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    assert len(sequence), "an empty sequence reached a batch"
    ids = torch.as_tensor(sequence.ids, dtype=torch.int64)
    labels = torch.as_tensor(sequence.labels, dtype=torch.int64).clone()
    labels[0] = IGNORE
    return ids, labels, torch.arange(len(ids)), torch.full_like(ids, number, dtype=torch.int32)
