"""Prepare: from a run's settings to a session: rooms put together in the order data flows, up to the first step.

Does not know any single objective, adapter or file format.
"""

from __future__ import annotations

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
from hone.errors import RunError
from hone.inference.embedded import EmbeddedSampler
from hone.inference.rollout import Sampler, Sampling
from hone.inference.vllm import VllmSampler
from hone.kernels.machine import device_of, machine_of
from hone.models.checkpointing import Activations
from hone.models.forward import find_causal
from hone.models.host_embedding import hold_in_host
from hone.models.load import load_model
from hone.models.neftune import add_noise
from hone.models.place import hub_name
from hone.models.policy import Policy
from hone.models.score_head import ScoreHead
from hone.objectives.onpolicy import OnPolicy
from hone.optim.build import build_optimizer, build_schedule
from hone.training.checkpoints.checkpoint import make_output, write_whole, writing
from hone.training.checkpoints.hold import hold
from hone.training.checkpoints.keeper import Form, Keeper, Parts
from hone.training.checkpoints.randomness import be_deterministic, seed_all
from hone.training.checkpoints.remote import Carrier, Remote, brought_here, everywhere
from hone.training.checkpoints.resume import (
    NOTHING,
    Start,
    changes,
    choose_start,
    require_free_output,
    require_same_run,
    told_finished,
)
from hone.training.courier import courier_for
from hone.training.device import Device
from hone.training.engines.base import Hardware
from hone.training.feed import Feed, lay_out
from hone.training.heads import fit_heads, weights_of
from hone.training.loop import Work
from hone.training.planning.choose import choose
from hone.training.planning.draft import Material, data_seed, draft_plan, gather_material, lay_steps, never_learns
from hone.training.planning.means import require_means
from hone.training.planning.names import require_names
from hone.training.planning.plan import Plan, precision_of
from hone.training.planning.precision import load_dtype, settled
from hone.training.portions import Portions, divided, read_note, write_note
from hone.training.precompute import rows_taken, with_reference
from hone.training.processes.elastic import shared_out
from hone.training.processes.meeting import Meeting
from hone.training.processes.preflight import HINT, digest, join, prove_sum, same_data
from hone.training.prompts import answers_at_once, ready_to_draw
from hone.training.reference import build_reference, is_precomputed
from hone.training.reward_model import build_reward_model
from hone.training.rollouts import Drawer, RolloutFeed
from hone.training.session import Session
from hone.training.trackers import tracker_folder


def prepare(run: Run, *, settings: str) -> Session | str:
    """Everything up to the first step; what to say instead, where nothing of the run is left to do.

    settings: the run's resolved settings, to be kept beside every checkpoint.
    """
    run, remote = brought_here(settled(run, machine_of(device_of(use_cpu=run.train.use_cpu))))
    meeting = join(run, settings)
    device, start = _come_together(run, meeting, remote)
    _settle_numbers(run, device)
    require_names(run)
    require_means(run, device.device)
    material = gather_material(run)
    same_data(meeting, digest(material.tokens))
    run = shared_out(run, read_environment()[0], fixed=material.objective.mixes_rows)
    _require_something_to_learn(run, material)
    run, steps, plan = _decide(run, material, device, start)
    if start.source:
        require_same_run(start.source, plan.fingerprint)
        if finished := device.gather(told_finished(run, plan, start, settings))[0]:
            device.close()
            return finished
        for line in changes(start.source, settings):
            log.info(f"note: {line}")
    announce(material, plan, trains=run.train.do_train)
    if device.is_main and run.train.do_train:
        with writing(Path(plan.output_dir)):
            plan.save(Path(plan.output_dir))
            write_whole(Path(plan.output_dir) / "run.yaml", settings)
    return _assemble(run, plan, device, material, steps, start, remote, meeting, settings)


def _come_together(run: Run, meeting: Meeting, remote: Remote | None) -> tuple[Device, Start]:
    """All processes joined and proven by one sum, and where the run starts from, looked up by the first of them."""
    choice = _look_at_output(run, remote) if log.rank() == 0 else NOTHING  # before any process waits in a collective
    meeting.wait("the look at output_dir")
    with meeting.within("the first sum over all processes", HINT):
        device = open_device(run)
        prove_sum(device)
    start = device.gather(choice)[0]
    if remote is not None and start.source is not None:
        everywhere(remote, start.source)
        device.gather(None)  # the processes of a machine wait for the one that fetches
    return device, start


def _require_something_to_learn(run: Run, material: Material) -> None:
    if material.objective.has_labels and not material.tokens.trained.any():
        raise RunError("nothing would be trained: no token of the data is learned; `hone check` shows the samples")
    if run.train.do_train and (problem := material.objective.problem_of(material.tokens)):
        raise RunError(problem)


def _decide(run: Run, material: Material, device: Device, start: Start) -> tuple[Run, Steps, Plan]:
    """What was left open, settled alike on every process; the order of the rows; the plan."""
    choice = choose(run, material.objective, material.tokens, device=device.device, world=device.data_world)
    choice = device.gather(choice)[0]  # each process finds other memory free
    run = divided(choice.settle(run), device.gather(read_note(Path(run.train.output_dir)))[0])
    steps = lay_steps(run, material, device.data_world)
    plan = draft_plan(run, material, steps, choice, device=device.device, world=device.data_world)
    if start.source is None and (problem := never_learns(run, plan)):
        raise RunError(problem)
    return run, steps, plan


def _assemble(
    run: Run,
    plan: Plan,
    device: Device,
    material: Material,
    steps: Steps,
    start: Start,
    remote: Remote | None,
    meeting: Meeting,
    settings: str,
) -> Session:
    """Model, optimizer, batches and keeper, as planned."""
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
    return Session(run, plan, device, material, steps, work, feed, keeper, start, carrier, meeting)


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


def announce(material: Material, plan: Plan, *, trains: bool) -> None:
    """Print the data report and the plan."""
    for line in (*material.tokens.report.lines(), "", *plan.lines(trains=trains), ""):
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
    attached = attach(module, run.adapter, base_name=hub_name(run.model), trained_dtype=trained_dtype, ahead=ahead)
    if run.train.offload_embedding:
        hold_in_host(find_causal(attached), device.device)
    return attached


def make_work(run: Run, plan: Plan, device: Device, material: Material, module: nn.Module) -> Work:
    """Optimizer and schedule, and the policy over the module as the device wrapped it."""
    optimizer = build_optimizer(module, run.optimizer, skips=device.precision == "fp16")
    schedule = build_schedule(optimizer, run.optimizer, plan.num_steps)
    wrapped, prepared = device.prepare(module, optimizer)
    balanced = run.objective.moe_aux_loss_coef if isinstance(run.objective, Routed) else 0.0
    shows_media = any(one.shows_media for one in (material.tokens, *material.evals.values()))
    policy = Policy(wrapped, balanced, shows_media=shows_media)
    tempered = isinstance(material.objective, OnPolicy) and material.objective.tempered
    policy.temperature = run.generate.temperature if tempered else 1.0
    with device.autocast():  # as its forwards are, which engines may wrap in it: it decides what difference is none
        policy.self_test()
        if material.objective.sample is Pair:
            policy.test_sharing()
        if device.context is not None:
            policy.cut_over(device.context)
    if material.objective.needs_reference and not is_precomputed(run):
        policy.reference = build_reference(run, device, policy, module)
    policy.can_share = all(device.gather(policy.can_share))
    if isinstance(material.objective, OnPolicy) and material.objective.needs_reward_model:
        material.objective.take(build_reward_model(run, device, policy, module, material.codec.tokenizer))
    if run.train.neftune_noise_alpha:
        add_noise(policy, run.train.neftune_noise_alpha)
    seed_all(run.train.seed + device.noise_rank)  # dropout differs between processes, the weights do not
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
        material.codec.save(folder)

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
