"""Largest: the micro-batch of a run that holds the most, laid out as training will lay it, and what a mean one takes of it.

Does not know the model's layers nor what is computed from a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from hone.chat.encoded import IGNORE, Encoded, Example
from hone.config.run import Run
from hone.data.batch import Batch, pack, pad, share
from hone.data.build import TokenSet
from hone.models.forward import Packing
from hone.objectives.base import Objective
from hone.objectives.onpolicy import OnPolicy
from hone.training.planning.rows import fills_rows, row_length
from hone.training.prompts import require_room

_TRIED = 64
"""Of the longest examples, so many at least are looked at, where what sequences share, or what is not learned, takes less."""


@dataclass(frozen=True)
class Largest:
    """batch: the micro-batch, what is not learned of it included. tokens, seen: of a mean micro-batch, as a share of it: its

    tokens, and the pairs of tokens that attend to each other, which the time of attention goes by.
    """

    batch: Batch
    tokens: float
    seen: float


def longest_example(run: Run, objective: Objective, tokens: TokenSet) -> int:
    """Tokens of the longest example, with the longest answer that may be drawn to it."""
    longest = int(tokens.lengths.max())
    if isinstance(objective, OnPolicy):
        prompts = tokens.lengths - tokens.trained  # an answer that is drawn takes the place of the row's own
        longest = max(longest, int(prompts.max()) + run.generate.max_new_tokens)
        require_room(run, longest)
    return longest


def find_largest(
    run: Run, objective: Objective, tokens: TokenSet, *, longest: int, packing: Packing, by_sequence: bool
) -> Largest:
    """packing: how batches are laid out; by_sequence: sequences of a packed row attend each by itself."""
    micro = run.train.per_device_train_batch_size
    lengths = tokens.lengths.astype(np.float64)
    if isinstance(objective, OnPolicy):
        batch = _lay([_drawn(longest, _most_learned(run, objective, tokens))] * micro, packing)
        share = float(lengths.mean()) / longest
        return Largest(batch, share, share**2)
    falling = np.argsort(-tokens.lengths, kind="stable")
    if fills_rows(run):
        rows = _full_rows(tokens, falling, micro, row_length(run, tokens))
    elif packing == "shared":
        rows = _most(tokens, falling, micro, laid)
    elif tokens.join is not None:
        rows = _most(tokens, falling, micro, lambda example: objective.learned(pack([example])).ids_BT.numel())
    else:
        rows = falling[:micro].tolist()
    chosen = lengths[rows]
    share = 1.0 if fills_rows(run) else micro * float(lengths.mean()) / float(chosen.sum())
    # Of each token, those that it sees are as many as its sequence is long, or its row where all are looked at.
    seen = float((lengths**2).mean() / lengths.mean() / ((chosen**2).sum() / chosen.sum())) if by_sequence else share
    return Largest(_lay([tokens[row] for row in rows], packing), share, share * seen)


def _lay(examples: list[Any], packing: Packing) -> Batch:
    if packing == "padded":
        return pad(examples, 0)
    return share(examples) if packing == "shared" else pack(examples)


def _most_learned(run: Run, objective: OnPolicy, tokens: TokenSet) -> int:
    """Tokens of the longest answer: one that is drawn, or a row's own where some are learned from."""
    return max(run.generate.max_new_tokens, int(tokens.trained.max()) if objective.share < 1 else 0)


def _drawn(length: int, learned: int) -> Encoded:
    """A prompt and an answer of which all is learned."""
    labels = np.zeros(length, np.int32)
    labels[: max(1, length - learned)] = IGNORE
    return Encoded(np.zeros(length, np.int32), labels)


def _full_rows(tokens: TokenSet, falling: np.ndarray, micro: int, capacity: int) -> list[int]:
    """The examples of `micro` rows, the longest first while they fit; from the start again for a row that would have none."""
    found: list[int] = []
    left = falling.tolist()
    for _ in range(micro):
        left, room, over = left or falling.tolist(), capacity, []
        for number, row in enumerate(left):
            if tokens.lengths[row] <= room:
                found.append(row)
                room -= int(tokens.lengths[row])
            else:
                over.append(row)
            if room < tokens.lengths[left[-1]]:
                over += left[number + 1 :]
                break
        left = over
    return found


def _most(tokens: TokenSet, falling: np.ndarray, micro: int, size: Callable[[Example], int]) -> list[int]:
    """The examples that take most room, where it is less than their tokens."""
    tried = falling[: max(_TRIED, 4 * micro)].tolist()
    return sorted(tried, key=lambda row: -size(tokens[row]))[:micro]


def laid(example: Example) -> int:
    """Tokens of an example in a row in which its sequences share their beginning."""
    return len(example) - (len(example.sequences) - 1) * max(example.num_shared - 1, 0)
