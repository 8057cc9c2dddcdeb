"""Draft: the data, codec and objective of a run gathered, and its Plan drawn up from them and the model's config alone.

Does not load a weight; `hone check` and `hone train` draft alike, so that what was checked is what is trained.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hone import log
from hone.adapters.folder import folders_of
from hone.chat.codec import Codec
from hone.chat.table import rows
from hone.config.knobs import SCORES_TEXTS
from hone.config.run import Run
from hone.data.build import TokenSet, build_data, split_validation
from hone.data.order import Steps
from hone.errors import DataError, RunError
from hone.inference.codec import load_codec
from hone.models.catalog import family_template
from hone.models.media.reader import load_reader
from hone.models.score_head import find_score_head
from hone.objectives.base import Objective
from hone.objectives.build import build_objective
from hone.objectives.onpolicy import OnPolicy
from hone.optim.build import schedule_factor
from hone.training.checkpoints.identity import fingerprint
from hone.training.conduct import choose_metric
from hone.training.evaluate import metric_names
from hone.training.planning import plan as planning
from hone.training.planning.choose import Choice
from hone.training.planning.fallbacks import fallbacks
from hone.training.planning.hardware import hardware_of
from hone.training.planning.plan import Plan
from hone.training.planning.rows import fills_rows, row_length
from hone.training.prompts import prompt_steps
from hone.training.reference import require_same_tokens
from hone.training.rollouts import answer_metric_names

PLAIN = ("pretrain", "embed", *SCORES_TEXTS)
"""Kinds that learn from texts as they stand, in no chat format."""


@dataclass(frozen=True)
class Material:
    """What is learned from and how. evals: evaluation sets by name, "" for the only one."""

    codec: Codec
    objective: Objective
    tokens: TokenSet
    evals: dict[str, TokenSet]
    pad_id: int


def gather_material(run: Run) -> Material:
    """Read and encode the data of a run (from the token cache where it holds them)."""
    codec = load_codec(run.model, run.chat, reader=load_reader(run.model, scores=run.objective.kind in SCORES_TEXTS))
    tokenizer, family = codec.tokenizer, family_template(run.model.model_name_or_path)
    objective, seed = build_objective(run.objective), data_seed(run)
    if objective.mixes_rows and run.train.per_device_train_batch_size == "auto":
        raise RunError(
            "per_device_train_batch_size: auto: a query is compared with the other texts of its micro-batch, so its size is part "
            "of what is learned; write a number"
        )
    if run.chat.template is None and family in rows() and run.objective.kind not in PLAIN:
        log.once(f"note: no template is named, so the tokenizer's own is used; that of this model's family is called {family}")
    if objective.needs_reference:
        require_same_tokens(run, tokenizer)

    def completed(tokens: TokenSet) -> TokenSet:
        return objective.complete(tokens, codec, seed=seed, longest=run.data.cutoff_len)

    names = run.data.dataset or (() if run.train.do_train else run.data.eval_dataset)  # a model that is only tried needs no other
    tokens = build_data(run.data, objective, codec, names=names, seed=seed, hub_tokens=_hub_tokens(run))
    if tokens.shows_media and isinstance(objective, OnPolicy):
        raise RunError(f"stage: {run.objective.kind}: its answers are drawn to text alone, and the data hold pictures or sounds")
    if objective.needs_score_head:
        objective = objective.settled(tokens, find_score_head(run.model, folders_of(run.adapter)))
    evals = _evaluation_sets(run, objective, codec, seed)
    if run.data.val_size:
        tokens, evals[""] = split_validation(tokens, run.data.val_size, seed)
    _require_metric(run, objective, evals)
    evals = {name: completed(part) for name, part in evals.items()}
    _require_company(run, objective, tokens)
    return Material(codec, objective, completed(tokens), evals, tokenizer.pad_token_id)


def _evaluation_sets(run: Run, objective: Objective, codec: Codec, seed: int) -> dict[str, TokenSet]:
    """Those of eval_dataset, each row evaluated once. What is wrong with one is told of that key, as dataset may name it too."""
    asked, in_turn = run.data.eval_dataset, run.data.model_copy(update={"mix_strategy": "concat", "interleave_probs": ()})
    groups = {name: (name,) for name in asked} if run.data.eval_on_each_dataset else {"": asked} if asked else {}
    tokens = _hub_tokens(run)
    try:
        return {
            title: build_data(in_turn, objective, codec, names=names, seed=seed, hub_tokens=tokens)
            for title, names in groups.items()
        }
    except DataError as problem:
        raise DataError(f"eval_dataset: {problem}") from problem


def _hub_tokens(run: Run) -> dict[str, str | None]:
    return {"hf": run.model.hf_hub_token, "ms": run.model.ms_hub_token, "om": run.model.om_hub_token}


def _require_metric(run: Run, objective: Objective, evals: dict[str, TokenSet]) -> None:
    wanted = choose_metric(run.train, objective.best_by).metric
    names = answer_metric_names(objective, evals) if isinstance(objective, OnPolicy) else metric_names(objective, evals)
    if run.train.metric_for_best_model and wanted not in names:
        raise RunError(f"metric_for_best_model: {wanted} is not measured; there are {', '.join(sorted(names))}")


def _require_company(run: Run, objective: Objective, tokens: TokenSet) -> None:
    alone = run.train.per_device_train_batch_size == 1 and not fills_rows(run)
    if objective.mixes_rows and run.train.do_train and alone and tokens.most_sequences < 3:
        raise RunError(
            "nothing would be learned: a query is compared with the other texts of its micro-batch, and with "
            "per_device_train_batch_size: 1 and no negatives in the data there are none; raise it, or name a column of negatives"
        )


def data_seed(run: Run) -> int:
    """The seed of the order of samples."""
    return run.train.seed if run.train.data_seed is None else run.train.data_seed


def lay_steps(run: Run, material: Material, world: int) -> Steps:
    """Which examples each step takes."""
    train = run.train
    if isinstance(material.objective, OnPolicy):
        return prompt_steps(run, material.objective, material.tokens.lengths, world=world, seed=data_seed(run))
    return Steps(
        material.tokens.lengths,
        per_step=train.per_device_train_batch_size * train.gradient_accumulation_steps * world,
        micro=train.per_device_train_batch_size,
        world=world,
        seed=data_seed(run),
        shuffle=not train.disable_shuffling,
        drop_last=train.dataloader_drop_last,
        packing_capacity=row_length(run, material.tokens) if fills_rows(run) else None,
        fixed=material.objective.mixes_rows,
    )


def draft_plan(
    run: Run, material: Material, steps: Steps, choice: Choice, *, device: torch.device, world: int, named: str = ""
) -> Plan:
    """The plan of a run on `world` processes with a device each. run: settled by `choice`; named: as of a forecast."""
    hardware = hardware_of(device, named)
    train, tokens, machine = run.train, material.tokens, hardware.machine
    per_epoch = steps.num_steps_per_epoch * (material.objective.reuses if isinstance(material.objective, OnPolicy) else 1)
    num_steps, num_epochs = planning.count_steps(train, per_epoch)
    schedule_factor(run.optimizer, num_steps)  # its mistakes are told here, with the plan, not when the model is loaded
    return Plan(
        device=str(hardware.device.type),
        named=named,
        machine=str(machine),
        fallbacks=fallbacks(run, machine),
        world=world,
        spread=_spread(run, world),
        precision=planning.precision_of(train),
        trained_dtype="bfloat16" if train.pure_bf16 else "float32",
        num_rows=len(tokens),
        num_eval_rows=sum(len(part) for part in material.evals.values()),
        tokens_per_epoch=int(tokens.lengths.sum()),
        trained_tokens_per_epoch=int(tokens.trained.sum()),
        micro_batch=train.per_device_train_batch_size,
        accumulation=train.gradient_accumulation_steps,
        per_step=train.per_device_train_batch_size * train.gradient_accumulation_steps * world,
        steps_per_epoch=per_epoch,
        num_steps=num_steps,
        num_epochs=num_epochs,
        log_every=planning.log_every(train, num_steps, per_epoch),
        eval_every=planning.eval_every(train, num_steps, per_epoch) if material.evals else 0,
        eval_after=planning.eval_after(train, per_epoch),
        eval_first=train.eval_on_start and bool(material.evals),
        eval_last=train.do_eval and bool(material.evals),
        save_every=planning.save_every(train, num_steps, per_epoch),
        unit=material.objective.unit,
        draws=material.objective.draws if isinstance(material.objective, OnPolicy) else 0,
        share=material.objective.share if isinstance(material.objective, OnPolicy) else 1.0,
        layout="packed to cutoff_len" if fills_rows(run) else "packed",
        activations=choice.activations,
        tile=choice.forecast.tile,
        why=choice.why,
        num_weights=choice.forecast.num_weights,
        num_trained=choice.forecast.num_trained,
        memory=choice.forecast.memory,
        step_seconds=choice.forecast.seconds,
        from_layers=choice.forecast.from_layers,
        available_bytes=choice.free,
        fits=choice.fits,
        instead=choice.instead,
        seed=train.seed,
        output_dir=train.output_dir,
        fingerprint=fingerprint(run, tokens, world=world, fills_rows=fills_rows(run), data_seed=data_seed(run)),
    )


def _spread(run: Run, world: int) -> str:
    parallel = run.parallel
    if world * parallel.together == 1:
        return ""
    if parallel.tensor_parallel_size > 1:
        return f"tensor parallel over {parallel.tensor_parallel_size}" + (", weights in shares" if parallel.fsdp else "")
    cut = f", rows cut over {parallel.context_parallel_size}" if parallel.context_parallel_size > 1 else ""
    return {"ddp": "DDP", "fsdp": "weights in shares: FSDP2", "zero": "DeepSpeed's ZeRO"}[parallel.engine] + cut


def never_learns(run: Run, plan: Plan) -> str:
    """What to say where the learning rate is 0 in every step, as in a single one that is the first of a warm-up; else ""."""
    factor = schedule_factor(run.optimizer, plan.num_steps)
    if not run.train.do_train or any(factor(step) > 0 for step in range(plan.num_steps)):
        return ""
    return (
        f"the learning rate is 0 in each of the {plan.num_steps} steps, so nothing would be learned: take more steps, or lower "
        "warmup_steps and warmup_ratio"
    )
