"""OnPolicy: what training needs to know of an objective that learns from answers the policy itself has drawn.

Does not know how answers are drawn, laid out or learned, nor any single objective.

How it goes: `start` once; then again and again training draws `draws` answers to each prompt of a step, hands this process's
share to `roll_out`, and lays the Lessons it gets out as batches with their `aside`; `reuses` optimizer steps learn from them by
the objective's `loss`. A new objective writes these methods, `count` and `loss`, and nothing of the loop.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from hone.chat.codec import Codec
from hone.chat.encoded import IGNORE, Encoded, Example
from hone.data.batch import Batch
from hone.inference.rollout import Drawn, Sampling
from hone.models.policy import Policy

Figures = dict[str, tuple[float, float]]
"""Figures by name, as (sum, count): the quotient over all processes is logged."""

Scorer = Callable[[Sequence[np.ndarray]], list[float]]
"""The ids of whole conversations to a number each: a reward model."""


Further = Callable[[], Sequence["Rollout"]]
"""Draws this process's share of the answers to the next prompts, for the same step; all processes call it together."""

ANSWER_FIGURES = ("completions/mean_length", "completions/clipped_ratio", "entropy")
"""Names of what `of_answers` gives."""


class Processes(Protocol):
    """The processes of a run."""

    rank: int

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, by rank; all processes call it together."""
        ...


@dataclass(frozen=True)
class Rollout:
    """One answer to the prompt of a row. row, place: which row of the data, and its name; note: what rewards must know of it.

    reckoned: by name fp32 [N], what `OnPolicy.reckon` found for each drawn token; empty where nobody asked for it.
    """

    row: int
    place: str
    prompt: np.ndarray
    note: str
    drawn: Drawn
    reckoned: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def old(self) -> np.ndarray | None:
        """Each drawn token's log-prob under the policy as the trainer computes it."""
        return self.reckoned.get("old")

    @property
    def sequence(self) -> Encoded:
        """Prompt and answer, the answer learned."""
        labels = np.concatenate([np.full(len(self.prompt), IGNORE, np.int32), self.drawn.ids])
        return Encoded(np.concatenate([self.prompt, self.drawn.ids]).astype(np.int32), labels)

    def along(self, figures: np.ndarray) -> np.ndarray:
        """Figures of the drawn tokens as fp32 of the whole sequence, 0 in the prompt."""
        return np.concatenate([np.zeros(len(self.prompt)), figures]).astype(np.float32)


@dataclass(frozen=True)
class Lesson:
    """What is learned of one rollout. aside: by name one number, or one a token of the sequence; the same names in all lessons.

    The batch has them as tensors: [S] of its sequences, or [B, T] beside its ids.
    """

    row: int
    sequence: Encoded
    aside: Mapping[str, float | np.ndarray]


@dataclass(frozen=True)
class Lessons:
    """lessons: of this process, empty only where several drawings are allowed; metrics: the same names on every process."""

    lessons: list[Lesson]
    metrics: Figures = field(default_factory=dict)


def of_answers(rollouts: Sequence[Rollout]) -> Figures:
    """Mean length, share of those cut off, and the entropy of a drawn token's distribution in nats."""
    number, drawn = float(len(rollouts)), [one.drawn for one in rollouts]
    entropies = [float(nats) for one in drawn for nats in one.entropies]
    sums = [
        (float(sum(len(one.ids) for one in drawn)), number),
        (float(sum(not one.finished for one in drawn)), number),
        (sum(entropies), float(len(entropies))),
    ]
    return dict(zip(ANSWER_FIGURES, sums, strict=True))


def nothing_further() -> Sequence[Rollout]:
    """Of an objective that draws once a step."""
    raise AssertionError("further answers were asked for by an objective that draws once a step")


class OnPolicy(ABC):
    """An Objective that learns from its own answers; training tells it from others by this class."""

    metrics: tuple[str, ...]
    """Names of the figures that `judge` gives."""
    draws: int
    """Answers to each prompt. A step's batch size counts answers and is a multiple of it."""
    reuses: int
    """Optimizer steps that learn from the same answers: a multiple of `minibatches`."""
    minibatches: int = 1
    """Steps that share the answers drawn at once among them, each time in another order; a step's batch size counts one's."""
    most_draws: int = 1
    """Drawings of a step, at most; where it is more than one, the place in the stream of prompts is part of a checkpoint."""
    share: float = 1.0
    """Share of the prompts that are answered, by chance; of the others `lesson` says what is learned."""
    tempered: bool = True
    """Whether it learns the distribution at the temperature that answers are drawn at; else the model's own, at 1."""
    judges_reckoned: bool = False
    """Whether `judge` needs what `reckon` finds."""
    needs_reward_model: bool = False
    """Whether training builds the reward model of the settings and hands it to `take`."""
    check_every: int
    """Optimizer steps between two comparisons of the sampler's log-probs with the trainer's, 0 for the one at the start alone."""
    check_bound: float
    """Mean absolute difference of a token's log-prob, in nats, beyond which the run stops."""

    @abstractmethod
    def start(self, codec: Codec, sampling: Sampling) -> None:
        """Make ready, before anything is drawn; what is missing is told here."""

    @property
    def reckons(self) -> bool:
        """Whether every Rollout to learn from must bring what `reckon` finds."""
        return self.reuses > 1

    def reckon(self, policy: Policy, batch: Batch) -> dict[str, Tensor]:
        """By name fp32 [B, T] of drawn tokens under the policy that drew them, `old` its log-probs; no dropout, no gradient."""
        return {"old": policy.token_logprobs(batch)}

    def lesson(self, row: int, example: Example) -> Lesson:
        """What is learned of a row whose prompt is not answered."""
        raise AssertionError("an objective that answers every prompt was asked for a row's own answer")

    def take(self, scorer: Scorer) -> None:
        """The reward model, before anything is drawn."""
        raise AssertionError("an objective that needs no reward model was given one")

    @abstractmethod
    def roll_out(self, rollouts: Sequence[Rollout], processes: Processes, further: Further = nothing_further) -> Lessons:
        """What is learned of this process's rollouts. The shares of all processes, by rank, are the step's prompts in order, the

        `draws` answers to each side by side; a group may lie on two processes, which is what `processes` is for. What goes wrong
        on one is raised on all. further: asked where `most_draws` allows; its answers are shared out in the same way.
        """

    @abstractmethod
    def judge(self, rollouts: Sequence[Rollout]) -> Figures:
        """The figures of rollouts from which nothing is learned: evaluation's, without the prefix `eval_`."""

    @abstractmethod
    def close(self) -> None:
        """Let go of what `start` took."""

    def state(self) -> dict[str, Any]:
        """What it carries from one drawing to the next, the same on all processes, for a checkpoint: numbers, texts, tensors."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Put back what `state` gave."""
        assert not state, "an objective without a state was given one"
