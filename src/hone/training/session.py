"""Session: a run that is made ready, and what is done with it: trained, evaluated, asked for answers, written down.

Does not know any single objective, adapter or file format.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hone import log
from hone.config.environment import read_environment
from hone.config.run import Run
from hone.data.order import Steps
from hone.errors import CheckpointError
from hone.training.checkpoints import checkpoint
from hone.training.checkpoints.checkpoint import write_whole, writing
from hone.training.checkpoints.keeper import Keeper, dumps
from hone.training.checkpoints.remote import Carrier
from hone.training.checkpoints.resume import Start
from hone.training.conduct import Conductor, choose_metric
from hone.training.device import Device
from hone.training.evaluate import Layout, evaluate
from hone.training.feed import Feed
from hone.training.loop import Work, fit
from hone.training.planning.draft import Material
from hone.training.planning.plan import Plan
from hone.training.predict import FILE as PREDICTED
from hone.training.predict import Predictions
from hone.training.processes.lost import whom
from hone.training.processes.meeting import Meeting
from hone.training.processes.signals import StopRequest, saying
from hone.training.processes.watch import Watch
from hone.training.progress import Progress
from hone.training.records import Records
from hone.training.results import describe, plot_history, train_metrics, write_metrics
from hone.training.rollouts import RolloutFeed, evaluate_answers
from hone.training.trackers import flat_settings, project_of, tracker_folder, tracker_options
from hone.training.trial import try_longest


@dataclass(frozen=True)
class Outcome:
    """metrics: of the run, empty where it was stopped before its end. signal: what stopped it (any process of it), else 0."""

    metrics: dict[str, float]
    signal: int


@dataclass(frozen=True)
class Session:
    """A run made ready."""

    run: Run
    plan: Plan
    device: Device
    material: Material
    steps: Steps
    work: Work
    feed: Feed | RolloutFeed
    keeper: Keeper
    start: Start
    carrier: Carrier
    meeting: Meeting

    @property
    def place(self) -> str:
        """Where the user finds what the run makes: the folder or the URL that they named."""
        return self.carrier.url or self.plan.output_dir


def carry_out(session: Session) -> Outcome:
    """Train to the plan's end or until stopped, then write the final model and the results."""
    with closing(session.feed), closing(session.carrier):
        return _train(session)


def _train(session: Session) -> Outcome:
    run, plan, device = session.run, session.plan, session.device
    progress = session.keeper.restore(session.start.source) if session.start.source else Progress()
    if session.start.source:
        log.info(f"continuing {session.start.source} at step {progress.step} of {plan.num_steps}")
    if run.train.load_best_model_at_end:
        _look_for_best(progress)
    records = Records(plan, device, progress, show_bar=not run.train.disable_tqdm, memory=device.device.type == "cuda")
    environment, _ = read_environment()
    options = tracker_options(run.track, run.track.run_name or plan.output_dir, tracker_folder(run))
    device.start_trackers(project_of(run.track, environment), options, flat_settings(run))
    measure = partial(measure_now, session)
    choice = choose_metric(run.train, session.material.objective.best_by)
    saves = run.train.save_strategy != "no"
    conductor = Conductor(
        plan,
        records,
        session.keeper,
        measure,
        choice=choice,
        log_first=run.train.logging_first_step,
        saves=saves,
        carrier=session.carrier,
    )
    if run.train.eval_on_start and not progress.step:
        conductor.evaluate_now(progress)
    request = StopRequest(saying("the run saves a checkpoint after this step and ends"))
    with _watch(session, progress), request:
        tired = 0 < choice.patience <= progress.stale_evaluations  # its early end was saved: there is nothing to go on with
        if isinstance(session.feed, Feed) and not tired and progress.step < plan.num_steps:
            _try_longest(session, session.feed, progress.step)
        feeding = session.feed.steps(progress.step, progress.step if tired else plan.num_steps)
        stopped = fit(session.work, feeding, progress, conductor, lambda: bool(request.signal))
    records.close()
    session.keeper.settle()
    cause = max(device.gather(request.signal))  # a scheduler may signal one process alone
    if stopped and progress.step < plan.num_steps:
        session.carrier.finish()
        device.close()
        return Outcome({}, cause)
    with StopRequest(saying("the run is over and writes its model")):
        metrics = conclude(session, progress, records, measure)
        metrics |= predict_now(session)
        session.carrier.finish()
    device.close()
    return Outcome(metrics, 0)


def _watch(session: Session, progress: Progress) -> Watch:
    device = session.device

    def rescue() -> str:
        return str(session.keeper.rescue(progress) or "")

    folder, seconds = Path(session.plan.output_dir), session.run.parallel.watchdog_timeout
    return Watch(
        device.rank, device.world, seconds, folder, name_rows=session.work.name_rows, rescue=rescue,
        name_lost=partial(whom, meeting=session.meeting),
    )  # fmt: skip


def _try_longest(session: Session, feed: Feed, step: int) -> None:
    asked, plan, device = session.run.train.try_longest_first, session.plan, session.device
    if asked == "auto":
        asked = device.device.type != "cpu" or 2 * plan.memory.needed > plan.available_bytes
    if asked and device.tries_first:
        try_longest(session.work, feed, session.steps, step=step, state_bytes=session.plan.memory.optimizer)


def _look_for_best(progress: Progress) -> None:
    """See that the best checkpoint so far is still there; where none was noted, the best is looked for from here on."""
    if not progress.best_checkpoint:
        progress.best_metric = None
    elif problem := checkpoint.problem_of(Path(progress.best_checkpoint)):
        raise CheckpointError(
            f"load_best_model_at_end: {progress.best_checkpoint}, the best so far, cannot be loaded: {problem}. "
            "Put it back beside the checkpoint that is continued, or write load_best_model_at_end: false"
        )


def measure_now(session: Session) -> dict[str, float]:
    """The evaluation's figures at the present weights."""
    material, policy = session.material, session.work.policy
    if isinstance(session.feed, RolloutFeed):
        return evaluate_answers(session.feed.drawer, material.evals, seed=session.plan.seed)
    layout = Layout(session.run.train.per_device_eval_batch_size, policy.packing, material.pad_id)
    return evaluate(policy, material.objective, material.evals, session.device, layout)


def use_only(session: Session) -> dict[str, float]:
    """do_eval and do_predict without do_train: the figures of the model as it is, written to eval_ and predict_results.json."""
    folder, metrics = Path(session.plan.output_dir), {}
    with closing(session.feed):
        if session.run.train.do_eval:
            metrics = measure_now(session)
            if session.device.is_main:
                with writing(folder):
                    write_metrics(folder, "eval", metrics)
        metrics |= predict_now(session)
    session.carrier.finish()
    session.device.close()
    return metrics


def predict_now(session: Session) -> dict[str, float]:
    """do_predict: the model's answers to the evaluation rows, and their figures in predict_results.json."""
    run, folder, device = session.run, Path(session.plan.output_dir), session.device
    if not run.train.do_predict:
        return {}
    adapters = vars(run.adapter).get("adapter_name_or_path", ())
    step = session.keeper.last.name if run.train.do_train and session.keeper.last else ""
    model = repr((run.model.model_name_or_path, adapters, step, session.plan.fingerprint if run.train.do_train else ""))
    predictions = Predictions(run, session.material.codec, session.work.policy, device, model=model)
    with writing(folder / PREDICTED):
        metrics = predictions.take(session.material.evals)
        if device.is_main:
            write_metrics(folder, "predict", metrics)
    log.info(f"the answers are in {session.place}/{PREDICTED}")
    return metrics


def conclude(session: Session, progress: Progress, records: Records, measure: Callable[[], dict[str, float]]) -> dict[str, float]:
    """The best or last weights into output_dir, a last evaluation where asked for, results and plots."""
    run, plan, folder = session.run, session.plan, Path(session.plan.output_dir)
    if run.train.load_best_model_at_end and progress.best_checkpoint:
        session.keeper.load_best(progress.best_checkpoint)
        metric = choose_metric(run.train, session.material.objective.best_by).metric
        best = f"{metric} {progress.best_metric:.4g}"
        log.info(f"the best checkpoint is {progress.best_checkpoint} ({best})")
    elif run.train.load_best_model_at_end:
        log.info("load_best_model_at_end: nothing was evaluated that could be the best; the model is the last one")
    session.keeper.finish()
    metrics = train_metrics(progress, plan, tokens_rate=run.train.include_effective_tokens_per_second)
    evaluation: dict[str, float] = {}
    if run.train.do_eval and session.material.evals:
        evaluation = {**measure(), "epoch": progress.step / plan.steps_per_epoch}
        records.log_evaluation(progress, evaluation)
    if session.device.is_main:
        with writing(folder):
            _write_results(session, progress, metrics, evaluation)
    return {**metrics, **evaluation}


def _write_results(session: Session, progress: Progress, metrics: dict[str, float], evaluation: dict[str, float]) -> None:
    run, plan, folder = session.run, session.plan, Path(session.plan.output_dir)
    write_metrics(folder, "train", metrics)
    if evaluation:
        write_metrics(folder, "eval", evaluation)
    state = progress.to_state(num_steps=plan.num_steps, steps_per_epoch=plan.steps_per_epoch, num_epochs=plan.num_epochs)
    write_whole(folder / "trainer_state.json", dumps(state))
    describe(folder, run, session.work.policy.causal.config)
    for path in plot_history(folder, progress.log_history) if run.track.plot_loss else []:
        log.info(f"drew {path}")
