"""Draft: the data, codec and objective of a run gathered, and its Plan drawn up from them and the model's config alone.

Does not load a weight; `hone check` and `hone train` draft alike, so that what was checked is what is trained.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import nn

from hone.adapters.apply import attach
from hone.chat.codec import Codec, build_codec
from hone.config.run import Run
from hone.data.build import TokenSet, build_data, split_validation
from hone.data.order import Steps
from hone.models.shape import meta_model, shape_of
from hone.models.tokenizer import load_tokenizer
from hone.objectives.base import Objective
from hone.objectives.build import build_objective
from hone.training import plan as planning
from hone.training.memory import Memory, available_bytes, estimate
from hone.training.plan import Plan

STATE_BYTES = {"sgd": 0.0, "adafactor": 0.1, "adamw_8bit": 2.1, "adamw_bnb_8bit": 2.1, "paged_adamw_8bit": 2.1}
"""Optimizer state in bytes a trained weight, where it is not Adam's two fp32 numbers."""


_OF_THE_BASE = ("model_revision", "quantization", "rope_scaling", "train_from_scratch")
"""Settings that make other weights, or another function, of the same model."""


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
    tokenizer = load_tokenizer(run.model)
    codec, objective, seed = build_codec(run.chat, tokenizer), build_objective(run.objective), data_seed(run)
    tokens = build_data(run.data, objective, codec, names=run.data.dataset, seed=seed)
    evals: dict[str, TokenSet] = {}
    in_turn = run.data.model_copy(update={"mix_strategy": "concat", "interleave_probs": ()})  # each row evaluated once
    if run.data.val_size:
        tokens, evals[""] = split_validation(tokens, run.data.val_size, seed)
    elif run.data.eval_on_each_dataset:
        for name in run.data.eval_dataset:
            evals[name] = build_data(in_turn, objective, codec, names=(name,), seed=seed)
    elif run.data.eval_dataset:
        evals[""] = build_data(in_turn, objective, codec, names=run.data.eval_dataset, seed=seed)
    return Material(codec, objective, tokens, evals, tokenizer.pad_token_id)


def data_seed(run: Run) -> int:
    """The seed of the order of samples."""
    return run.train.seed if run.train.data_seed is None else run.train.data_seed


def fills_rows(run: Run) -> bool:
    """Whether rows are filled up to cutoff_len: where asked for, and in pretraining unless refused."""
    return run.objective.kind == "pretrain" if run.data.packing is None else run.data.packing


def lay_steps(run: Run, material: Material, world: int) -> Steps:
    """Which sequences each step takes."""
    train = run.train
    return Steps(
        material.tokens.lengths,
        per_step=train.per_device_train_batch_size * train.gradient_accumulation_steps * world,
        micro=train.per_device_train_batch_size,
        world=world,
        seed=data_seed(run),
        shuffle=not train.disable_shuffling,
        drop_last=train.dataloader_drop_last,
        packing_capacity=run.data.cutoff_len if fills_rows(run) else None,
    )


def draft_plan(run: Run, material: Material, steps: Steps, *, device: torch.device, world: int) -> Plan:
    """The plan of a run on `world` processes with a device each."""
    train, tokens = run.train, material.tokens
    num_steps, num_epochs = planning.count_steps(train, steps.num_steps_per_epoch)
    num_weights, num_trained, kept, recomputed = _measure(run, material, steps)
    free = available_bytes(device)
    recompute = train.gradient_checkpointing
    if recompute is None:
        recompute = kept.total > 0.8 * free
    return Plan(
        device=str(device.type),
        world=world,
        precision=planning.precision_of(train),
        trained_dtype="bfloat16" if train.pure_bf16 else "float32",
        num_rows=len(tokens),
        num_eval_rows=sum(len(part) for part in material.evals.values()),
        tokens_per_epoch=int(tokens.lengths.sum()),
        trained_tokens_per_epoch=int(tokens.trained.sum()),
        micro_batch=train.per_device_train_batch_size,
        accumulation=train.gradient_accumulation_steps,
        per_step=train.per_device_train_batch_size * train.gradient_accumulation_steps * world,
        steps_per_epoch=steps.num_steps_per_epoch,
        num_steps=num_steps,
        num_epochs=num_epochs,
        log_every=planning.log_every(train, num_steps, steps.num_steps_per_epoch),
        eval_every=planning.eval_every(train, num_steps, steps.num_steps_per_epoch) if material.evals else 0,
        eval_after=planning.eval_after(train, steps.num_steps_per_epoch),
        save_every=planning.save_every(train, num_steps, steps.num_steps_per_epoch),
        layout="packed to cutoff_len" if fills_rows(run) else "packed",
        recompute=recompute,
        num_weights=num_weights,
        num_trained=num_trained,
        memory=recomputed if recompute else kept,
        available_bytes=free,
        seed=train.seed,
        output_dir=train.output_dir,
        fingerprint=fingerprint(run, material, world),
    )


def fingerprint(run: Run, material: Material, world: int) -> dict[str, str]:
    """What must be equal for a checkpoint to be continued, by the user's words."""
    train = run.train
    adapter = run.adapter.model_dump_json()
    plus = " with loraplus_lr_ratio" if run.optimizer.loraplus_lr_ratio is not None else ""  # it splits the groups of weights
    coefficient = run.objective.moe_aux_loss_coef
    balanced = "" if coefficient is None else f" with moe_aux_loss_coef {coefficient:g}"
    return {
        "model_name_or_path": run.model.model_name_or_path,
        **{name: str(getattr(run.model, name)) for name in _OF_THE_BASE},
        "precision": ("pure " if train.pure_bf16 else "") + planning.precision_of(train),
        "finetuning_type": f"{run.adapter.kind} {_digest(adapter)}",
        "stage": material.objective.fingerprint + balanced,
        "data": _digest_data(material.tokens),
        "sequences of a step": str(train.per_device_train_batch_size * train.gradient_accumulation_steps * world),
        "packing": str(run.data.cutoff_len) if fills_rows(run) else "off",
        "data_seed": str(data_seed(run)),
        "disable_shuffling": str(train.disable_shuffling),
        "optim": run.optimizer.kind + plus,
    }


def _measure(run: Run, material: Material, steps: Steps) -> tuple[int, int, Memory, Memory]:
    """Weights, trained weights, and the memory of a step with activations kept and recomputed."""
    module = meta_model(run.model)
    shape = shape_of(module)
    mixed, quantization = planning.precision_of(run.train) != "no", run.model.quantization
    compute = 2 if mixed else 4
    frozen = _frozen_bytes(module, compute, quantization.bit if quantization else 0)
    attached = attach(module, run.adapter, base_name=run.model.model_name_or_path)
    trained = sum(weight.numel() for weight in attached.parameters() if weight.requires_grad)
    longest = int(material.tokens.lengths.max())
    rows = run.train.per_device_train_batch_size
    tokens = rows * (run.data.cutoff_len if fills_rows(run) else longest)
    kept, recomputed = (
        estimate(
            shape,
            num_trained=trained,
            tokens=tokens,
            weight_bytes=frozen,
            trained_weight_bytes=2 if run.train.pure_bf16 else 4,
            compute_bytes=compute,
            state_bytes=STATE_BYTES.get(run.optimizer.kind, 4.0 if run.train.pure_bf16 else 8.0),
            recompute=recompute,
        )
        for recompute in (False, True)
    )
    return shape.num_weights, trained, kept, recomputed


def _frozen_bytes(module: nn.Module, compute_bytes: int, bits: int) -> float:
    """Bytes a frozen weight, on average: bitsandbytes holds linear layers but the head in few bits, the rest stays as it is."""
    if not bits:
        return float(compute_bytes)
    head = module.get_output_embeddings()
    small = sum(inner.weight.numel() for inner in module.modules() if isinstance(inner, nn.Linear) and inner is not head)
    total = sum(weight.numel() for weight in module.parameters())
    return (small * bits / 8 + (total - small) * compute_bytes) / total


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _digest_data(tokens: TokenSet) -> str:
    """Of the encoded sets (their cache entries are named by content) and the order of the mixture."""
    digest = hashlib.sha256("".join(entry.key for entry in tokens.entries).encode())
    for indices in (tokens.sets, tokens.places):
        digest.update(indices.tobytes())
    return digest.hexdigest()[:12]
