"""Encoding: rendered conversations to ids with what is learned; what conversations of one form have in common is done once.

Does not know templates or conversations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise

import numpy as np

from hone.chat.encoded import IGNORE, Encoded, Piece
from hone.chat.marks import Outline, Rendered, Segment, fill, parts_of
from hone.chat.runs import Edge, Run, cut
from hone.chat.tokens import Tokens

Coded = tuple[np.ndarray, np.ndarray | None]
"""Ids [T] of a text and, where asked for, the characters of each token [T, 2]."""


@dataclass(frozen=True)
class Fixed:
    """Tokens that are the same in every conversation of a form. labels: IGNORE where nothing is learned."""

    ids: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Plan:
    """How conversations of one form are encoded: what is fixed, and the runs that somebody's words are in.

    edges: where words of white space would make other runs.
    """

    runs: tuple[Run, ...]
    steps: tuple[Fixed | Run, ...]
    edges: tuple[Edge, ...]


class Encoder:
    """`Encoder(tokens).encode([rendered], everything=False)` is `[Encoded]`."""

    def __init__(self, tokens: Tokens):
        self._tokens = tokens
        self._plan: Callable[[Outline], Plan] = lru_cache(maxsize=1024)(partial(_plan, tokens=tokens))

    def encode(self, rows: Sequence[Rendered], *, everything: bool) -> list[Encoded]:
        """Each row as one sequence, all of them tokenised in one batch.

        everything: learn all of it, whatever the segments say.
        """
        rows = [self._settled(row) for row in rows]
        plans = [self._plan(row.outline) for row in rows]
        wanted = [
            (fill(step.parts, row.contents), step.place, step.learned is None and not everything)
            for row, plan in zip(rows, plans, strict=True)
            for step in plan.steps
            if isinstance(step, Run)
        ]
        coded = iter(self._tokens.encode(wanted))
        return [self._assembled(row, plan, coded, everything) for row, plan in zip(rows, plans, strict=True)]

    def _settled(self, row: Rendered) -> Rendered:
        """The row, or one of an outline that holds its very words, where white space in them decides what the runs are."""
        for edge in self._plan(row.outline).edges:
            words = fill(parts_of(edge.marked), row.contents)
            if words != (words.lstrip() if edge.side == "start" else words.rstrip()):
                return Rendered(Outline(row.segments, literal=True), ())
        return row

    def _assembled(self, row: Rendered, plan: Plan, coded: Iterator[Coded], everything: bool) -> Encoded:
        ids, labels = [_NO_IDS], [_NO_IDS]
        for step in plan.steps:
            if isinstance(step, Fixed):
                ids.append(step.ids)
                labels.append(step.labels)
                continue
            run_ids, offsets = next(coded)
            ids.append(run_ids)
            if offsets is not None:
                learned, _ = _attributed(_filled(step, row).segments, offsets)
                labels.append(np.where(learned, run_ids, np.int32(IGNORE)))
            else:
                labels.append(run_ids if step.learned else np.full(len(run_ids), IGNORE, np.int32))
        whole = np.concatenate(ids)
        return Encoded(whole, whole.copy() if everything else np.concatenate(labels), partial(self._pieces, row, plan))

    def _pieces(self, row: Rendered, plan: Plan) -> tuple[Piece, ...]:
        """Where each stretch of the row's tokens came from."""
        runs = [_filled(run, row) for run in plan.runs]
        texts = [("".join(one.text for one in run.segments), run.place, run.mixed) for run in runs if run.control is None]
        coded = iter(self._tokens.encode(texts))
        pieces: list[Piece] = []
        for run in runs:
            run_ids, offsets = (_NO_IDS[:0], None) if run.control is not None else next(coded)
            first, length = run.segments[0], 1 if run.control is not None else len(run_ids)
            found = [(0, length, first.kind, first.message)] if offsets is None else _attributed(run.segments, offsets)[1]
            before = pieces[-1].end if pieces else 0
            for start, end, kind, message in found:
                _extend(pieces, Piece(before + start, before + end, kind, message))
        return tuple(pieces)


_NO_IDS = np.zeros(0, np.int32)


def _plan(outline: Outline, *, tokens: Tokens) -> Plan:
    runs, edges = cut(outline.segments, tokens)
    steps: list[Fixed | Run] = []
    for run in runs:
        if run.control is None and not outline.literal and any(isinstance(part, int) for part in run.parts):
            steps.append(run)
            continue
        fixed = _fixed(run, tokens)
        if steps and isinstance(steps[-1], Fixed):
            last = steps.pop()
            fixed = Fixed(np.concatenate([last.ids, fixed.ids]), np.concatenate([last.labels, fixed.labels]))
        steps.append(fixed)
    return Plan(tuple(runs), tuple(steps), () if outline.literal else tuple(edges))


def _fixed(run: Run, tokens: Tokens) -> Fixed:
    if run.control is not None:
        ids, learned = np.array([run.control.id], np.int32), np.array([run.learned])
    else:
        text = "".join(segment.text for segment in run.segments)
        ((ids, offsets),) = tokens.encode([(text, run.place, run.learned is None)])
        learned = np.full(len(ids), run.learned) if offsets is None else _attributed(run.segments, offsets)[0]
    return Fixed(ids, np.where(learned, ids, np.int32(IGNORE)))


def _filled(run: Run, row: Rendered) -> Run:
    return Run(run.place, [one.saying(row.text_of(one)) for one in run.segments], run.control)


def _attributed(segments: list[Segment], offsets: np.ndarray) -> tuple[np.ndarray, list[tuple[int, int, str, int]]]:
    """Which tokens are learned, and the run's pieces (start, end, kind, message).

    A token over a boundary is control where one side is, and learned only where both sides are.
    """
    ends = np.cumsum([len(segment.text) for segment in segments])
    last = len(segments) - 1
    first_of = np.minimum(np.searchsorted(ends, offsets[:, 0], side="right"), last)
    last_of = np.maximum(first_of, np.minimum(np.searchsorted(ends, offsets[:, 1] - 1, side="right"), last))
    is_control = np.array([segment.kind == "control" for segment in segments])
    trains = np.array([segment.trained for segment in segments])
    owner = np.where(~is_control[first_of] & is_control[last_of], last_of, first_of)
    cuts = [0, *(np.flatnonzero(np.diff(owner)) + 1).tolist(), len(offsets)]
    pieces = [
        (start, end, segments[owner[start]].kind, segments[owner[start]].message) for start, end in pairwise(cuts) if end > start
    ]
    return trains[first_of] & trains[last_of], pieces


def _extend(pieces: list[Piece], new: Piece) -> None:
    if new.start == new.end:
        return
    if pieces and (pieces[-1].kind, pieces[-1].message) == (new.kind, new.message):
        pieces[-1] = Piece(pieces[-1].start, new.end, new.kind, new.message)
    else:
        pieces.append(new)
