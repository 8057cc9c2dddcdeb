"""What PPO carries from rollout to rollout: the coefficient of the divergence, and the moments of the scores so far.

Does not know tokens, models or processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

BOUND = 0.2
"""How far off the target the divergence counts at most, as a share."""


@dataclass
class KlControl:
    """coef: what the divergence is multiplied by now. target: None keeps it; horizon: answers over which it is brought there."""

    coef: float
    target: float | None = None
    horizon: float = 10000.0

    def update(self, divergence: float, answers: int) -> None:
        """After a rollout of `answers` answers whose mean divergence it was.  Ziegler et al. 2019, section 2.2.

        coef <- coef (1 + e answers / horizon), e = divergence / target - 1 within BOUND.
        """
        if self.target is not None:
            error = min(max(divergence / self.target - 1, -BOUND), BOUND)
            self.coef *= 1 + error * answers / self.horizon


@dataclass
class Moments:
    """Mean and variance of all scores so far, as if they had come at once (Chan, Golub and LeVeque 1979)."""

    count: float = 0.0
    mean: float = 0.0
    variance: float = 0.0

    def update(self, scores: np.ndarray) -> None:
        """Take in further scores; not none."""
        number, total = len(scores), self.count + len(scores)
        step = float(scores.mean()) - self.mean
        squares = self.variance * self.count + float(scores.var()) * number + step**2 * self.count * number / total
        self.mean, self.variance, self.count = self.mean + step * number / total, squares / total, total

    def normalised(self, scores: np.ndarray) -> np.ndarray:
        """The scores less the mean, over the standard deviation (that of a sample); 0 where all scores so far were one."""
        deviation = np.sqrt(self.variance * self.count / max(1.0, self.count - 1))
        return (scores - self.mean) / deviation if deviation > 0 else np.zeros_like(scores)

    def state(self) -> dict[str, float]:
        """Its numbers by name."""
        return asdict(self)

    def load(self, state: Mapping[str, float]) -> None:
        """Put back what `state` gave."""
        self.count, self.mean, self.variance = state["count"], state["mean"], state["variance"]
