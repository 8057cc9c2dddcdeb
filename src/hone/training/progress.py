"""Progress: where a run is, all that must survive a restart besides weights and optimizer.

Does not know how a step is taken or how the record is shown.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Progress:
    """step: optimizer steps done. losses: mean loss of each step since the last log line;

    metrics: the objective's figures since then, by name [sum, count]. log_history: Hugging Face's records.

    tokens: not padding, seen by all processes. stale_evaluations: evaluations in a row without a better metric.
    """

    step: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    samples: int = 0
    seconds: float = 0.0
    loss_sum: float = 0.0
    losses: list[float] = field(default_factory=list)
    metrics: dict[str, list[float]] = field(default_factory=dict)
    log_history: list[dict[str, Any]] = field(default_factory=list)
    best_metric: float | None = None
    best_checkpoint: str | None = None
    stale_evaluations: int = 0

    def add(self, metrics: Mapping[str, tuple[float, float]]) -> None:
        """Add a step's figures."""
        for name, (total, count) in metrics.items():
            before = self.metrics.get(name, [0.0, 0.0])
            self.metrics[name] = [before[0] + total, before[1] + count]

    def take_metrics(self) -> dict[str, float]:
        """The figures since the last log line, each sum over its count; those that counted nothing are left out. Starts anew."""
        found = {name: total / count for name, (total, count) in self.metrics.items() if count}
        self.metrics.clear()
        return found

    def improve(self, value: float, greater_is_better: bool) -> bool:
        """Note an evaluation's metric; True where it is the best so far. One that is not a number never is."""
        sign = 1 if greater_is_better else -1
        better = math.isfinite(value) and (self.best_metric is None or sign * value > sign * self.best_metric)
        self.stale_evaluations = 0 if better else self.stale_evaluations + 1
        if better:
            self.best_metric = value
        return better

    def to_state(self, *, num_steps: int, steps_per_epoch: int, num_epochs: float) -> dict[str, Any]:
        """trainer_state.json: Hugging Face's names for what they name, ours under "hone"."""
        return {
            "best_metric": self.best_metric,
            "best_model_checkpoint": self.best_checkpoint,
            "epoch": self.step / steps_per_epoch,
            "global_step": self.step,
            "is_local_process_zero": True,
            "is_world_process_zero": True,
            "log_history": self.log_history,
            "max_steps": num_steps,
            "num_input_tokens_seen": self.tokens,
            "num_train_epochs": num_epochs,
            "hone": {name: value for name, value in asdict(self).items() if name != "log_history"},
        }

    @classmethod
    def from_state(cls, text: str) -> Progress:
        """Read what `to_state` gave."""
        state = json.loads(text)
        return cls(**state["hone"], log_history=state["log_history"])
