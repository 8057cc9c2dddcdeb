"""Rollouts: answers drawn from a model while it is trained, with the log-prob of every drawn token.

Does not know conversations, rewards or what is learned from them. `Sampler` is what training asks for; behind it
stands the trained model itself, or an engine elsewhere that gives the same figures and takes the policy's weights in `refresh`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Prompt:
    """ids: int32 [T], what is continued; seed: of this one draw alone, so that it does not depend on its neighbours."""

    ids: np.ndarray
    seed: int


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. num_new: most of them; stop_ids: any of them ends an answer; top_k 0 and top_p 1 draw from all."""

    num_new: int
    stop_ids: tuple[int, ...]
    pad_id: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0


@dataclass(frozen=True)
class Drawn:
    """One answer. ids: int32 [N], the stop token included; finished: whether it ended with one.

    logprobs: fp32 [N], of each token under the model at the sampling's temperature, from all tokens: the policy that is learned.
    drawn_logprobs: fp32 [N], under the distribution it was really drawn from, with top_k and top_p.
    entropies: fp32 [N], of the distribution of `logprobs`, in nats; empty where an engine does not tell.
    """

    ids: np.ndarray
    logprobs: np.ndarray
    drawn_logprobs: np.ndarray
    finished: bool
    entropies: np.ndarray


class Sampler(Protocol):
    """Anything that draws from the policy as it is now."""

    def refresh(self) -> None:
        """Take over the policy's present weights; called before every `draw` of a new step."""
        ...

    def draw(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Drawn]:
        """One answer a prompt, in order; equal prompts with equal seeds give equal answers."""
        ...

    def close(self) -> None:
        """No more is drawn."""
        ...


def seed_of(*numbers: int) -> int:
    """A seed below 2^63 made of whole numbers not below 0: (run's seed, step, row, number of the answer)."""
    high, low = np.random.SeedSequence(numbers).generate_state(2, np.uint32).tolist()
    return (high << 31) ^ low
