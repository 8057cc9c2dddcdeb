"""Session: one training run from its settings to its files: rooms put together in the order data flows.

Does not know any single objective, adapter or file format.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from hone import log
from hone.adapters.apply import attach, save_trained
from hone.config.adapter import Adapted
from hone.config.environment import read_environment
from hone.config.objectives.routed import Routed
from hone.config.run import Run
from hone.config.sharding import parts_layers, sharding_of
from hone.data.order import Steps
from hone.data.sample import Pair
from hone.errors import CheckpointError, RunError
from hone.inference.embedded import EmbeddedSampler
from hone.inference.rollout import Sampler, Sampling
from hone.inference.vllm import VllmSampler
from hone.kernels.machine import device_of, machine_of
from hone.models.checkpointing import Activations
from hone.models.load import load_model
from hone.models.neftune import add_noise
from hone.models.place import hub_name
from hone.models.policy import Policy
from hone.models.score_head import ScoreHead
from hone.objectives.onpolicy import OnPolicy
from hone.optim.build import build_optimizer, build_schedule
from hone.training import checkpoint
from hone.training.checkpoint import make_output, write_whole, writing
from hone.training.choose import choose
from hone.training.conduct import Conductor, choose_metric
from hone.training.courier import courier_for
from hone.training.device import Device
from hone.training.draft import Material, data_seed, draft_plan, gather_material, lay_steps, never_learns
from hone.training.elastic import shared_out
from hone.training.engines.base import Hardware
from hone.training.evaluate import Layout, evaluate
from hone.training.feed import Feed, lay_out
from hone.training.heads import fit_heads, weights_of
from hone.training.hold import hold
from hone.training.keeper import Form, Keeper, Parts, dumps
from hone.training.loop import Work, fit
from hone.training.means import require_means
from hone.training.plan import Plan, precision_of
from hone.training.portions import Portions, divided, read_note, write_note
from hone.training.precision import load_dtype, settled
from hone.training.precompute import rows_taken, with_reference
from hone.training.predict import FILE as PREDICTED
from hone.training.predict import Predictions
from hone.training.preflight import HINT, digest, join, prove_sum, same_data
from hone.training.progress import Progress
from hone.training.prompts import answers_at_once, ready_to_draw
from hone.training.randomness import be_deterministic, seed_all
from hone.training.records import Records
from hone.training.reference import build_reference, is_precomputed
from hone.training.remote import Carrier, Remote, brought_here, everywhere
from hone.training.results import describe, plot_history, train_metrics, write_metrics
from hone.training.resume import NOTHING, Start, changes, choose_start, require_free_output, require_same_run, told_finished
from hone.training.reward_model import build_reward_model
from hone.training.rollouts import Drawer, RolloutFeed, evaluate_answers
from hone.training.signals import StopRequest, saying
from hone.training.trackers import flat_settings, project_of, tracker_options
from hone.training.trial import try_longest
from hone.training.watch import Watch


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


def prepare(run: Run, *, settings: str) -> Session | str:
    """Everything up to the first step; what to say instead, where nothing of the run is left to do.

    settings: the run's resolved settings, to be kept beside every checkpoint.
    """
    run, remote = brought_here(settled(run, machine_of(device_of(use_cpu=run.train.use_cpu))))
    meeting = join(run, settings)
    choice = _look_at_output(run, remote) if log.rank() == 0 else NOTHING  # before any process waits in a collective
    meeting.wait("the look at output_dir")
    with meeting.within("the first sum over all processes", HINT):
        device = open_device(run)
        prove_sum(device)
    start = device.gather(choice)[0]
    if remote is not None and start.source is not None:
        everywhere(remote, start.source)
        device.gather(None)  # the processes of a machine wait for the one that fetches
    _settle_numbers(run, device)
    require_means(run, device.device)
    material = gather_material(run)
    same_data(meeting, digest(material.tokens))
    run = shared_out(run, read_environment()[0], fixed=material.objective.mixes_rows)
    if material.objective.has_labels and not material.tokens.trained.any():
        raise RunError("nothing would be trained: no token of the data is learned; `hone check` shows the samples")
    if run.train.do_train and (problem := material.objective.problem_of(material.tokens)):
        raise RunError(problem)
    choice = choose(run, material.objective, material.tokens, device=device.device, world=device.data_world)
    choice = device.gather(choice)[0]  # each process finds other memory free
    run = divided(choice.settle(run), device.gather(read_note(Path(run.train.output_dir)))[0])
    steps = lay_steps(run, material, device.data_world)
    plan = draft_plan(run, material, steps, choice, device=device.device, world=device.data_world)
    if start.source is None and (problem := never_learns(run, plan)):
        raise RunError(problem)
    if start.source:
        require_same_run(start.source, plan.fingerprint)
        if finished := device.gather(told_finished(run, plan, start, settings))[0]:
            device.close()
            return finished
        for line in changes(start.source, settings):
            log.info(f"note: {line}")
    announce(material, plan)
    if device.is_main and run.train.do_train:
        with writing(Path(plan.output_dir)):
            plan.save(Path(plan.output_dir))
            (Path(plan.output_dir) / "run.yaml").write_text(settings, encoding="utf-8")
    sampling = None
    if isinstance(material.objective, OnPolicy):
        sampling = ready_to_draw(run, material.objective, material.codec, material.pad_id)
    module = build_module(run, device, activations=plan.activations, head=material.objective.head)
    fit_heads(run, module, material.objective)
    work = make_work(run, plan, device, material, module)
    if is_precomputed(run):
        rows = rows_taken(steps, plan.num_steps, len(material.tokens)) if run.train.do_train else np.zeros(0, np.int64)
        build = partial(build_reference, run, device, work.policy, module)
        material = with_reference(run, material, rows, plan.fingerprint, work.policy, device, build)
    feed = make_feed(run, material, steps, work, module, sampling)
    keeper = make_keeper(run, plan, material, module, work, feed, settings=settings, start=start)
    anew = start.source is None
    carrier = Carrier(remote if device.is_main else None, limit=run.train.save_total_limit, anew=anew)
    return Session(run, plan, device, material, steps, work, feed, keeper, start, carrier)


def _settle_numbers(run: Run, device: Device) -> None:
    """Seeds, and how products are taken."""
    seed_all(run.train.seed)
    if run.train.full_determinism:
        be_deterministic()
    if run.train.tf32 is not None:
        device.use_tf32(run.train.tf32)


def make_feed(
    run: Run, material: Material, steps: Steps, work: Work, module: nn.Module, sampling: Sampling | None
) -> Feed | RolloutFeed:
    """Where each step's batches come from."""
    policy, device, objective = work.policy, work.device, material.objective
    if sampling is None:
        if policy.packing == "shared":
            _tell_shared(material)
        courier, rank = courier_for(device.device), device.data_rank
        return Feed(material.tokens, steps, rank=rank, packing=policy.packing, pad_id=material.pad_id, courier=courier)
    assert isinstance(objective, OnPolicy)
    micro = run.train.per_device_train_batch_size
    sampler = make_sampler(run, policy, module, device.rank)
    drawer = Drawer(objective, policy, device, sampler, sampling, work.name_rows, micro, material.pad_id)
    return RolloutFeed(drawer, material.tokens, steps, seed=data_seed(run))


def make_sampler(run: Run, policy: Policy, module: nn.Module, rank: int) -> Sampler:
    """What draws answers: the model that learns, or a server that takes over its adapter."""
    at_once = answers_at_once(run)
    if not run.objective.rollout_server:
        return EmbeddedSampler(policy.causal, batch_size=at_once)
    return VllmSampler(
        run.objective.rollout_server,
        Path(run.train.output_dir) / f".rollout-{rank}",
        partial(save_trained, module),
        at_once=at_once,
        seconds=run.objective.rollout_timeout,
    )


def _tell_shared(material: Material) -> None:
    first = lay_out(material.tokens, list(range(min(len(material.tokens), 100))), packing="shared", pad_id=material.pad_id)
    left_out, pairs = first.num_tokens - first.ids_BT.numel(), len(first.parts)
    share = f"{left_out / first.num_tokens:.0%} of the tokens of the first {pairs:,} pairs are left out"
    log.info(f"prompts are computed once a pair: {share}")


def _look_at_output(run: Run, remote: Remote | None) -> Start:
    """Where the run starts from; one that only evaluates takes the model as it is and leaves output_dir's run alone."""
    if run.train.do_train:
        require_free_output(run)
    make_output(Path(run.train.output_dir))
    hold(Path(run.train.output_dir))
    if remote is not None:
        asked = run.train.resume_from_checkpoint
        anew = asked is False or (run.train.overwrite_output_dir and asked is None) or not run.train.do_train
        remote.begin(anew=anew, named=asked if isinstance(asked, str) else "")
    return choose_start(run.train) if run.train.do_train else NOTHING


def open_device(run: Run) -> Device:
    """The processes and trackers of a run."""
    hardware = Hardware(precision_of(run.train), run.train.use_cpu, run.parallel, run.track.report_to, tracker_folder(run))
    return Device(hardware)


def tracker_folder(run: Run) -> str:
    """Where trackers that write files of their own put them."""
    return run.track.logging_dir or str(Path(run.train.output_dir) / "runs")


def announce(material: Material, plan: Plan) -> None:
    """Print the data report and the plan."""
    for line in (*material.tokens.report.lines(), "", *plan.lines(), ""):
        log.info(line)


def build_module(run: Run, device: Device, *, activations: Activations, head: ScoreHead | None = None) -> nn.Module:
    """The base model with what is trained on it, on the device, seeded alike on every process."""
    dtype = load_dtype(run)
    seed_all(run.train.seed)
    module = load_model(
        run.model,
        dtype=dtype,
        device=device.device,
        for_training=True,
        held=device.held,
        activations=activations,
        fused=False if parts_layers(run.parallel) else run.train.fused_kernels,
        length=run.data.cutoff_len,
        head=head,
    )
    trained_dtype = torch.bfloat16 if run.train.pure_bf16 else torch.float32
    ahead = run.train.fused_kernels is True
    return attach(module, run.adapter, base_name=hub_name(run.model), trained_dtype=trained_dtype, ahead=ahead)


def make_work(run: Run, plan: Plan, device: Device, material: Material, module: nn.Module) -> Work:
    """Optimizer and schedule, and the policy over the module as the device wrapped it."""
    optimizer = build_optimizer(module, run.optimizer, skips=device.precision == "fp16")
    schedule = build_schedule(optimizer, run.optimizer, plan.num_steps)
    wrapped, prepared = device.prepare(module, optimizer)
    balanced = run.objective.moe_aux_loss_coef if isinstance(run.objective, Routed) else 0.0
    policy = Policy(wrapped, balanced)
    tempered = isinstance(material.objective, OnPolicy) and material.objective.tempered
    policy.temperature = run.generate.temperature if tempered else 1.0
    policy.self_test()
    if material.objective.sample is Pair:
        policy.test_sharing()
    if material.objective.needs_reference and not is_precomputed(run):
        policy.reference = build_reference(run, device, policy, module)
    policy.can_share = all(device.gather(policy.can_share))
    if isinstance(material.objective, OnPolicy) and material.objective.needs_reward_model:
        material.objective.take(build_reward_model(run, device, policy, module, material.codec.tokenizer))
    if run.train.neftune_noise_alpha:
        add_noise(policy, run.train.neftune_noise_alpha)
    seed_all(run.train.seed + device.data_rank)  # dropout differs between processes, the weights do not
    name_rows = partial(_name_rows, material)
    folder = Path(plan.output_dir)
    note = partial(write_note, folder, read_note(folder))
    return Work(
        objective=material.objective,
        policy=policy,
        optimizer=prepared,
        schedule=schedule,
        device=device,
        max_grad_norm=run.train.max_grad_norm,
        name_rows=name_rows,
        portions=Portions(device, name_rows, splits=not material.objective.mixes_rows, note=note),
    )


def _name_rows(material: Material, rows: list[int]) -> str:
    names = [f"{name} row {number}" for name, number in map(material.tokens.origin, rows)]
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def make_keeper(
    run: Run,
    plan: Plan,
    material: Material,
    module: nn.Module,
    work: Work,
    feed: Feed | RolloutFeed,
    *,
    settings: str,
    start: Start,
) -> Keeper:
    """The keeper of this run's checkpoints; the tokenizer goes into each of them."""
    weights = weights_of(run, module, material.objective)

    def save_weights(folder: Path) -> None:
        weights.save(folder)
        material.codec.tokenizer.save_pretrained(folder)

    parts = Parts(module, work.optimizer, work.schedule, save_weights, weights.load, feed)
    return Keeper(
        parts,
        plan,
        work.device,
        settings=settings,
        limit=run.train.save_total_limit,
        only_model=run.train.save_only_model,
        stale=start.stale,
        form=_form_of(run),
    )


def _form_of(run: Run) -> Form:
    """An adapter is small: it is written whole unless it is to be written while training goes on."""
    parallel, adapted = run.parallel, isinstance(run.adapter, Adapted)
    sharded = parallel.engine == "fsdp" and sharding_of(parallel).sharded and not adapted
    return Form("shards" if sharded or parallel.save_async else "whole", parallel.save_async, adapted)


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
    return Watch(device.rank, device.world, seconds, folder, name_rows=session.work.name_rows, rescue=rescue)


def _try_longest(session: Session, feed: Feed, step: int) -> None:
    if session.run.train.try_longest_first and session.device.tries_first:
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
    log.info(f"the answers are in {folder / PREDICTED}")
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
    describe(folder, run)
    for path in plot_history(folder, progress.log_history) if run.track.plot_loss else []:
        log.info(f"drew {path}")
