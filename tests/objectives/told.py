"""A policy that gives every trained token the same log-prob, for tests of what objectives make of log-probs.

Computes nothing and has no weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hone.chat.encoded import IGNORE
from hone.data.batch import Batch


class Told:
    """logprob: of each trained token; balance: the router's balance loss of each sequence."""

    def __init__(self, logprob: float, reference: Told | None = None, balance: tuple[float, ...] = ()):
        self._logprob, self.reference, self._balance = logprob, reference, balance
        self.module = nn.Identity()

    def token_logprobs(self, batch: Batch) -> Tensor:
        return torch.where(batch.labels_BT != IGNORE, self._logprob, 0.0)

    @contextmanager
    def balance(self, batch: Batch) -> Iterator[Callable[[], Tensor]]:
        of_sequence = torch.tensor(self._balance or [0.0] * batch.num_sequences)[batch.sequences_BT.clamp(min=0)]
        yield lambda: torch.where(batch.labels_BT != IGNORE, of_sequence, 0.0)
