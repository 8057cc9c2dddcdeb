"""Encoded: one sequence of token ids, what of it is learned, and where it may be cut. Example: the sequences learned together.

Knows no tokenizer: the codec makes it, data cuts and stores it, batches are laid out from it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hone.chat.shown import NOTHING, Shown

IGNORE = -100
"""The label of a token from which nothing is learned."""


@dataclass(frozen=True)
class Piece:
    """A run of tokens, [start, end) in the ids, that came from one source.

    kind: "control" is the template's own text (headers, stop tokens) and is never cut; "content" is what somebody wrote.
    message: the index of the message it belongs to, -1 for what stands before the first.
    """

    start: int
    end: int
    kind: str
    message: int


@dataclass(frozen=True)
class Encoded:
    """ids, labels: int32 arrays of equal length T; labels[t] is ids[t], or IGNORE where nothing is learned.

    Nothing is shifted: the policy predicts labels[t] from the tokens before t. find_pieces: called when they are asked for, which
    few sequences are. shown: the pictures, films and sounds that some of the ids stand for.
    """

    ids: np.ndarray
    labels: np.ndarray
    find_pieces: Callable[[], tuple[Piece, ...]] = tuple
    shown: Shown = NOTHING

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def pieces(self) -> tuple[Piece, ...]:
        """Where its tokens came from, without a gap and in order; () where nobody knows."""
        return self.find_pieces()

    @cached_property
    def num_trained(self) -> int:
        """How many tokens are learned: never the first, which nothing precedes."""
        return int(np.count_nonzero(self.labels[1:] != IGNORE))


@dataclass(frozen=True)
class Example:
    """One thing that is learned: a conversation (one sequence), a pair (chosen, rejected), a query with its matches.

    value: a number of the row: whether an answer is good, a class, a score. note: JSON text of what else is to be known of it,
    such as the answer that a reward compares with.
    """

    sequences: tuple[Encoded, ...]
    value: float = 0.0
    note: str = ""

    def __len__(self) -> int:
        """Tokens of all its sequences."""
        return sum(map(len, self.sequences))

    @property
    def num_shared(self) -> int:
        """How many tokens all its sequences begin with, none of which is learned in any: the prompt of a pair."""
        shortest = min(map(len, self.sequences))
        ids, labels = (np.stack([getattr(one, name)[:shortest] for one in self.sequences]) for name in ("ids", "labels"))
        differs = (ids != ids[0]).any(0)
        differs[1:] |= (labels[:, 1:] != IGNORE).any(0)  # the first is never learned
        return int(differs.argmax()) if differs.any() else shortest

    @property
    def num_trained(self) -> int:
        """How many tokens of all its sequences are learned."""
        return sum(sequence.num_trained for sequence in self.sequences)
