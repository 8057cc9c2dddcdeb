"""Conductor: after every step, what is due: a log line, an evaluation, a checkpoint, the end of the run.

Does not know how any of these is done.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hone import log
from hone.config.train import TrainConfig
from hone.training.checkpoints.keeper import Keeper
from hone.training.checkpoints.remote import Carrier
from hone.training.loop import StepResult
from hone.training.planning.plan import Plan
from hone.training.progress import Progress
from hone.training.records import Records


@dataclass(frozen=True)
class Choice:
    """How the best checkpoint is told. metric: a key of the evaluation; patience: evaluations without a better one, 0 for any."""

    keep_best: bool
    metric: str
    greater_is_better: bool
    patience: int


def choose_metric(train: TrainConfig, best_by: str) -> Choice:
    """How checkpoints are compared: by the objective's own figure unless the settings name another metric."""
    metric = train.metric_for_best_model or best_by
    metric = metric if metric.startswith("eval_") else f"eval_{metric}"
    greater = train.greater_is_better
    greater = not metric.endswith(("loss", "perplexity", "mse", "mae")) if greater is None else greater
    return Choice(train.load_best_model_at_end, metric, greater, train.early_stopping_steps or 0)


class Conductor:
    """Told of every step by the loop."""

    def __init__(
        self,
        plan: Plan,
        records: Records,
        keeper: Keeper,
        evaluate: Callable[[], dict[str, float]],
        *,
        choice: Choice,
        log_first: bool,
        saves: bool,
        carrier: Carrier,
    ):
        self._plan, self._records, self._keeper, self._evaluate = plan, records, keeper, evaluate
        self._choice, self._log_first, self._saves = choice, log_first, saves
        self._carrier = carrier

    def stepped(self, progress: Progress, result: StepResult) -> bool:
        """Do what is due after `progress.step`; True ends the run."""
        plan, step = self._plan, progress.step
        last = step == plan.num_steps
        self._records.stepped(progress)
        if _due(plan.log_every, step) or last or (self._log_first and step == 1):
            self._records.log_step(progress, grad_norm=result.grad_norm, learning_rate=result.learning_rate)
        improved = step >= plan.eval_after and _due(plan.eval_every, step) and self._judge(progress)
        tired = 0 < self._choice.patience <= progress.stale_evaluations
        saves = self._saves and (_due(plan.save_every, step) or last or tired)
        if saves or result.stop or (improved and self._choice.keep_best):
            self._save(progress, to_go_on=result.stop)
        if tired:
            log.info(f"{self._choice.metric} did not get better in {progress.stale_evaluations} evaluations: the run ends early")
        return tired

    def evaluate_now(self, progress: Progress) -> None:
        """An evaluation that decides nothing (before the first step)."""
        self._records.log_evaluation(progress, self._evaluate())

    def _judge(self, progress: Progress) -> bool:
        metrics = self._evaluate()
        self._records.log_evaluation(progress, metrics)
        name = self._choice.metric
        improved = progress.improve(metrics[name], self._choice.greater_is_better)
        if improved and self._choice.keep_best:
            progress.best_checkpoint = str(self._keeper.path(progress.step))
        return improved

    def _save(self, progress: Progress, *, to_go_on: bool) -> None:
        self._keeper.settle()
        self._carrier.settle()  # what is being carried is not removed meanwhile
        folder = self._keeper.save(progress, to_go_on=to_go_on)
        self._carrier.carry(folder, progress.best_checkpoint)
        self._records.say(f"{'saving' if self._keeper.is_saving else 'saved'} {folder}")


def _due(every: int, step: int) -> bool:
    return every > 0 and step % every == 0
