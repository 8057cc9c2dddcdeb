"""Makers: of a session's parts out of its settings and plan: model, policy with optimizer, batches, sampler, keeper.

Does not know in what order they are made, nor what processes have agreed on before.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import nn

from hone import log
from hone.adapters.apply import attach, save_trained
from hone.config.adapter import Adapted
from hone.config.objectives.routed import Routed
from hone.config.run import Run
from hone.config.sharding import parts_layers, sharding_of
from hone.data.order import Steps
from hone.data.sample import Pair
from hone.inference.embedded import EmbeddedSampler
from hone.inference.rollout import Sampler, Sampling
from hone.inference.vllm import VllmSampler
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
from hone.training.checkpoints.keeper import Form, Keeper, Parts
from hone.training.checkpoints.randomness import seed_all
from hone.training.checkpoints.resume import Start
from hone.training.courier import courier_for
from hone.training.device import Device
from hone.training.feed import Feed, lay_out
from hone.training.heads import weights_of
from hone.training.loop import Work
from hone.training.planning.draft import Material, data_seed
from hone.training.planning.plan import Plan
from hone.training.planning.precision import load_dtype
from hone.training.portions import Portions, read_note, write_note
from hone.training.prompts import answers_at_once
from hone.training.reference import build_reference, is_precomputed
from hone.training.reward_model import build_reward_model
from hone.training.rollouts import Drawer, RolloutFeed


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
