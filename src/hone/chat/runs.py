"""Runs: segments cut where tokens must not cross, tokenised, and put together as one Encoded.

Does not know templates or conversations. A run is broken at control tokens and where an answer starts or ends, nowhere else, so
that ids are those of the whole text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from hone.chat.encoded import IGNORE, Encoded, Piece
from hone.chat.marks import Segment
from hone.chat.tokens import Control, Place, Tokens


@dataclass
class Run:
    """Text between two cuts, from one or several segments; or one control token."""

    place: Place
    segments: list[Segment] = field(default_factory=list)
    control: Control | None = None

    @property
    def text(self) -> str:
        """The run's whole text."""
        return "".join(segment.text for segment in self.segments)


def encode(rows: Sequence[Sequence[Segment]], tokens: Tokens, *, everything: bool) -> list[Encoded]:
    """Each row's segments as one sequence; everything: learn all of it, whatever the segments say."""
    runs = [_runs(row, tokens) for row in rows]
    flat = [run for row in runs for run in row if run.control is None]
    coded = iter(tokens.encode([(run.text, run.place, _mixed(run)) for run in flat]))
    return [_assemble(row, coded, everything) for row in runs]


def _mixed(run: Run) -> bool:
    first = run.segments[0]
    return any((s.kind, s.message, s.trained) != (first.kind, first.message, first.trained) for s in run.segments[1:])


def _runs(segments: Sequence[Segment], tokens: Tokens) -> list[Run]:
    runs: list[Run] = []
    open_run, said = False, (False, -1)
    for segment in segments:
        says = (segment.answer, segment.message if segment.answer else -1)
        open_run, said = open_run and says == said, says
        pieces = tokens.split(segment.text) if segment.kind == "control" else [(segment.text, None)]
        for text, control in pieces:
            if control is not None:
                if control.lstrip and open_run:
                    _strip_end(runs)
                runs.append(Run("after", [_with(segment, text)], control))
                open_run = False
                continue
            previous = runs[-1] if runs else None
            if not open_run:
                # White space behind such a token is its own, but not what an answer begins with.
                follows = previous is not None and previous.control is not None
                if follows and previous.control.rstrip and previous.segments[0].answer == segment.answer:
                    text = text.lstrip()
                if not text:
                    continue
                runs.append(Run("head" if previous is None else "after" if follows else "middle"))
                open_run = True
            runs[-1].segments.append(_with(segment, text))
    return runs


def _with(segment: Segment, text: str) -> Segment:
    return (
        segment
        if text == segment.text
        else Segment(text, segment.kind, segment.message, segment.spoken, segment.trained, segment.answer)
    )


def _strip_end(runs: list[Run]) -> None:
    segments = runs[-1].segments
    while segments:
        last = segments.pop()
        if kept := last.text.rstrip():
            segments.append(_with(last, kept))
            return
    runs.pop()


def _assemble(runs: list[Run], coded: Iterator[tuple[np.ndarray, np.ndarray | None]], everything: bool) -> Encoded:
    ids: list[np.ndarray] = []
    learned: list[np.ndarray] = []
    pieces: list[Piece] = []
    length = 0
    for run in runs:
        if run.control is not None:
            run_ids, offsets = np.array([run.control.id], dtype=np.int32), None
        else:
            run_ids, offsets = next(coded)
        trained, found = _attributed(run.segments, len(run_ids), offsets)
        ids.append(run_ids)
        learned.append(trained)
        for start, end, kind, message in found:
            _extend(pieces, Piece(length + start, length + end, kind, message))
        length += len(run_ids)
    all_ids = np.concatenate(ids) if ids else np.zeros(0, dtype=np.int32)
    mask = np.concatenate(learned) if learned else np.zeros(0, dtype=bool)
    labels = all_ids.copy() if everything else np.where(mask, all_ids, np.int32(IGNORE))
    return Encoded(all_ids, labels, tuple(pieces))


def _attributed(
    segments: list[Segment], num_tokens: int, offsets: np.ndarray | None
) -> tuple[np.ndarray, list[tuple[int, int, str, int]]]:
    """Which tokens are learned, and the run's pieces (start, end, kind, message).

    A token over a boundary is control where one side is, and learned only where both sides are.
    """
    if offsets is None:
        first = segments[0]
        return np.full(num_tokens, first.trained), [(0, num_tokens, first.kind, first.message)]
    ends = np.cumsum([len(segment.text) for segment in segments])
    last = len(segments) - 1
    first_of = np.minimum(np.searchsorted(ends, offsets[:, 0], side="right"), last)
    last_of = np.maximum(first_of, np.minimum(np.searchsorted(ends, offsets[:, 1] - 1, side="right"), last))
    is_control = np.array([segment.kind == "control" for segment in segments])
    trains = np.array([segment.trained for segment in segments])
    owner = np.where(~is_control[first_of] & is_control[last_of], last_of, first_of)
    cuts = [0, *(np.flatnonzero(np.diff(owner)) + 1).tolist(), num_tokens]
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
