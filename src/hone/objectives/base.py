"""Objective and Loss: what the loop needs to know of a way to learn, and all it knows.

Does not know any single objective, the loop or the model's architecture.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from hone.chat.codec import Codec
from hone.chat.encoded import Encoded
from hone.data.batch import Batch
from hone.data.sample import Sample
from hone.models.policy import Policy


@dataclass(frozen=True)
class Loss:
    """total: the SUM over what is learned (tokens or pairs), a fp32 scalar; the loop divides it by the step's count.

    metrics: further sums by name (detached fp32 scalars), divided by the same count when they are logged.
    """

    total: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)


class Objective(Protocol):
    """A way to learn from one kind of Sample."""

    sample: type[Sample]
    """What a row of its data means."""

    fingerprint: str
    """Changes when `encode` would give other ids or labels for the same sample: part of the token cache's key."""

    def examples(self, sample: Sample, codec: Codec) -> list[Sample]:
        """The samples it is learned as: itself, or several where the template writes it otherwise the longer it goes on."""
        ...

    def encode(self, samples: list[Sample], codec: Codec) -> list[Encoded]:
        """One whole, uncut Encoded a sample, in order."""
        ...

    def count(self, batch: Batch) -> int:
        """How many items the batch's loss is a sum over."""
        ...

    def loss(self, policy: Policy, batch: Batch) -> Loss:
        """The summed loss of a batch, with gradient."""
        ...
