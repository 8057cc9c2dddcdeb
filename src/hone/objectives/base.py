"""Objective and Loss: what the loop needs to know of a way to learn, and all it knows.

Does not know any single objective, the loop or the model's architecture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from torch import Tensor

from hone.chat.codec import Codec
from hone.chat.encoded import Example
from hone.data.batch import Batch
from hone.data.sample import Sample
from hone.models.policy import Policy


@dataclass(frozen=True)
class Loss:
    """total: the SUM over what is learned (tokens or pairs), a fp32 scalar; the loop divides it by the step's count.

    metrics: further figures by name as (sum, count), detached; both are summed over a step and all processes, and their quotient
    is logged. Every batch gives the same names, so that processes can add them up.
    """

    total: Tensor
    metrics: Mapping[str, tuple[Tensor | float, Tensor | float]] = field(default_factory=dict)


class Objective(Protocol):
    """A way to learn from one kind of Sample. A class of its own inherits the usual answers from `Usual`."""

    sample: type[Sample]
    """What a row of its data means."""

    unit: ClassVar[str]
    """What its examples are called: sequences, pairs, answers."""

    metrics: ClassVar[tuple[str, ...]]
    """Names of the figures that its losses bring, in training and evaluation alike."""

    best_by: ClassVar[str]
    """The evaluation's figure by which checkpoints are compared unless the settings name another."""

    has_perplexity: ClassVar[bool]
    """Whether exp(loss) is a perplexity."""

    has_labels: ClassVar[bool]
    """Whether its data say token by token what is learned; an example without a trained token is then refused."""

    needs_reference: bool
    """Whether its loss asks for policy.reference."""

    needs_value_head: bool
    """Whether its loss asks for policy.values or policy.scores."""

    needs_logits: bool
    """Whether its loss asks for log-probs; the output head rests where it does not."""

    fingerprint: str
    """Changes when `encode` would give other ids or labels for the same sample: part of the token cache's key."""

    def examples(self, sample: Sample, codec: Codec) -> list[Sample]:
        """The samples it is learned as: itself, or several where the template writes it otherwise the longer it goes on."""
        ...

    def encode(self, samples: list[Sample], codec: Codec) -> list[Example]:
        """One whole, uncut Example a sample, in order."""
        ...

    def count(self, batch: Batch) -> int:
        """How many items the batch's loss is a sum over."""
        ...

    def loss(self, policy: Policy, batch: Batch) -> Loss:
        """The summed loss of a batch, with gradient."""
        ...


class Usual:
    """What most objectives answer."""

    unit = "sequences"
    metrics: ClassVar[tuple[str, ...]] = ()
    best_by = "eval_loss"
    has_perplexity = False
    has_labels = True
    needs_reference = False
    needs_value_head = False
    needs_logits = True

    def examples(self, sample: Sample, codec: Codec) -> list[Sample]:
        """Itself."""
        return [sample]
