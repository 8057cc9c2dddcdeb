"""Policies whose figures are known, for tests of what objectives make of them.

Computes nothing and has no weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hone.chat.encoded import IGNORE
from hone.data.batch import Batch


class Routed:
    """balanced: the router's balance loss of each sequence; () where none is learned."""

    balanced: tuple[float, ...] = ()

    @contextmanager
    def balance(self, batch: Batch) -> Iterator[Callable[[], Tensor]]:
        def losses() -> Tensor:
            if not self.balanced:
                return torch.zeros(())
            of_sequence = torch.tensor(self.balanced)[batch.sequences_BT.clamp(min=0)]
            return torch.where(batch.labels_BT != IGNORE, of_sequence, 0.0)

        yield losses


class Told(Routed):
    """The same log-prob of each trained token; balance: the router's balance loss of each sequence."""

    def __init__(self, logprob: float, reference: Told | None = None, balance: tuple[float, ...] = ()):
        self._logprob, self.reference, self.balanced = logprob, reference, balance
        self.module = nn.Identity()

    def token_logprobs(self, batch: Batch) -> Tensor:
        return torch.where(batch.labels_BT != IGNORE, self._logprob, 0.0)
