"""Objective and Loss: what the loop needs to know of a way to learn, and all it knows.

Does not know any single objective, the loop or the model's architecture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from torch import Tensor

from hone.chat.codec import Codec
from hone.chat.encoded import Example
from hone.data.batch import Batch
from hone.data.build import TokenSet
from hone.data.sample import Sample
from hone.models.policy import Policy
from hone.models.score_head import ScoreHead

REFERENCE = "reference"
"""The name in batch.aside of the reference's numbers, where they were computed before training."""

Figures = Mapping[str, tuple[Tensor | float, Tensor | float]]
"""Numbers by name as (sum, count), detached: added up over batches and processes, their quotient is what is told."""


@dataclass(frozen=True)
class Loss:
    """total: the SUM over what is learned (tokens or pairs), a fp32 scalar; the loop divides it by the step's count.

    metrics: further figures by name as (sum, count), detached; both are summed over a step and all processes, and their quotient
    is logged. Every batch gives the same names, so that processes can add them up.
    """

    total: Tensor
    metrics: Figures = field(default_factory=dict)


class Objective(Protocol):
    """A way to learn from one kind of Sample. A class of its own inherits the usual answers from `Usual`."""

    sample: type[Sample]
    """What a row of its data means."""

    unit: ClassVar[str]
    """What its examples are called: sequences, pairs, answers."""

    metrics: tuple[str, ...]
    """Names of the figures that its losses bring, in training and evaluation alike."""

    best_by: ClassVar[str]
    """The evaluation's figure by which checkpoints are compared unless the settings name another."""
    of_step: tuple[str, ...]
    """Names of the numbers of a whole step that its losses find in batch.aside, as `measure` gives them; usually none."""

    has_perplexity: ClassVar[bool]
    """Whether exp(loss) is a perplexity."""

    has_labels: ClassVar[bool]
    """Whether its data say token by token what is learned; an example without a trained token is then refused."""

    needs_reference: bool
    """Whether its loss asks for policy.reference."""

    needs_value_head: bool
    """Whether its loss asks for policy.values or policy.scores."""

    needs_score_head: bool
    """Whether its loss asks for policy.label_scores, of a model whose head scores whole texts."""

    head: ScoreHead | None
    """That head, once `settled` knows it; None before, and where none is needed."""

    needs_logits: bool
    """Whether its loss asks for log-probs; the output head rests where it does not."""

    logit_chunks: int
    """Chunks of logits, in fp32, that its loss holds at once: the logits and their gradient, and what it makes of them."""
    mixes_rows: bool
    """Whether an example's loss depends on the others of its micro-batch, which is then the same on any number of processes."""

    fingerprint: str
    """Changes when `encode` would give other ids or labels for the same sample: part of the token cache's key."""

    def examples(self, sample: Sample, codec: Codec) -> list[Sample]:
        """The samples it is learned as: itself, or several where the template writes it otherwise the longer it goes on."""
        ...

    def settled(self, tokens: TokenSet, found: ScoreHead | None) -> Objective:
        """The objective as its whole training set makes it: itself, or one that knows what the set has to say.

        found: the head that scores texts which the model, or its adapter, has already. Raises DataError where the two disagree.
        """
        ...

    def problem_of(self, tokens: TokenSet) -> str:
        """Why nothing right can be learned from a training set; "" where it can."""
        ...

    def complete(self, tokens: TokenSet, codec: Codec, *, seed: int, longest: int) -> TokenSet:
        """The set as it is learned from: itself, or each example with what it takes from others, cut to `longest`."""
        ...

    def encode(self, samples: list[Sample], codec: Codec) -> list[Example]:
        """One whole, uncut Example a sample, in order."""
        ...

    def beside(self, cutoff_len: int, width: int) -> dict[str, Any]:
        """JSON by file name that stands beside the weights and tells others how the model is used. width: of hidden states."""
        ...

    def learned(self, batch: Batch) -> Batch:
        """Of a batch that which its loss has a gradient of: all of it, or a part, where the rest is only looked at."""
        ...

    def count(self, batch: Batch) -> int:
        """How many items the batch's loss is a sum over."""
        ...

    def reference_sums(self, policy: Policy, batch: Batch) -> Tensor:
        """[S], no gradient: all that its losses need of policy.reference, a number a sequence, which may lie in batch.aside.

        Only objectives that can have it computed before training (precompute_ref) are asked.
        """
        ...

    def told(self, figures: Mapping[str, float]) -> dict[str, float]:
        """The figures of an evaluation as they are told: themselves, and what follows from several of them."""
        ...

    def measure(self, policy: Policy, batch: Batch) -> Figures:
        """The batch's share of `of_step`, without gradient: asked of every batch of a step before the first loss.

        Their quotient over all batches and processes is put into batch.aside, a fp32 scalar a name. In evaluation the whole set
        is a step.
        """
        ...

    def loss(self, policy: Policy, batch: Batch) -> Loss:
        """The summed loss of a batch, with gradient."""
        ...


class Usual:
    """What most objectives answer."""

    unit = "sequences"
    metrics: tuple[str, ...] = ()
    best_by = "eval_loss"
    of_step: tuple[str, ...] = ()
    has_perplexity = False
    has_labels = True
    needs_reference = False
    needs_value_head = False
    needs_score_head = False
    head: ScoreHead | None = None
    logit_chunks = 2
    needs_logits = True
    mixes_rows = False

    def examples(self, sample: Sample, codec: Codec) -> list[Sample]:
        """Itself."""
        return [sample]

    def settled(self, tokens: TokenSet, found: ScoreHead | None) -> Objective:
        """Itself."""
        del tokens, found
        return self

    def problem_of(self, tokens: TokenSet) -> str:
        """Nothing is wrong."""
        del tokens
        return ""

    def complete(self, tokens: TokenSet, codec: Codec, *, seed: int, longest: int) -> TokenSet:
        """Itself."""
        del codec, seed, longest
        return tokens

    def reference_sums(self, policy: Policy, batch: Batch) -> Tensor:
        """Not asked."""
        raise AssertionError("numbers of a reference, of an objective that has none")

    def told(self, figures: Mapping[str, float]) -> dict[str, float]:
        """Themselves."""
        return dict(figures)

    def measure(self, policy: Policy, batch: Batch) -> Figures:
        """Nothing."""

    def learned(self, batch: Batch) -> Batch:
        """All of it."""
        return batch

    def beside(self, cutoff_len: int, width: int) -> dict[str, Any]:
        """Nothing."""
        del cutoff_len, width
        return {}
