"""Zero's fields: each of DeepSpeed's settings is known, has a place here and goes with the YAML, or is told with what to write.

Does not know DeepSpeed: mistakes are told where that is not installed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from hone.config.knobs import OWN_ANSWERS
from hone.config.settings import Settings
from hone.config.zero import AUTO, known_fields, part_of, stage_of, table, zero_of
from hone.table import nearest

_SAME = {  # fields that say again what the YAML says: path, key of the YAML
    ("gradient_accumulation_steps",): "gradient_accumulation_steps",
    ("train_micro_batch_size_per_gpu",): "per_device_train_batch_size",
    ("gradient_clipping",): "max_grad_norm",
    ("fp16", "enabled"): "fp16",
    ("bf16", "enabled"): "bf16",
    ("optimizer", "params", "lr"): "learning_rate",
    ("optimizer", "params", "weight_decay"): "weight_decay",
    ("optimizer", "params", "eps"): "adam_epsilon",
}
_UNREAD = ("comms_config", "monitor_config")
"""Names that stand in files which go about, and which DeepSpeed does not read either."""

ELEMENTWISE = ("adamw_torch", "adamw_torch_fused", "sgd", "rmsprop")
"""Optimizers whose step of a number looks at no other: weights may be cut anywhere."""


_WHOLE = ("zero_optimization", "fp16", "bf16", "data_types", "tensor_parallel", "sequence_parallel_size", "optimizer")
_OWN_PARTS = (
    "offload_optimizer",
    "offload_param",
    "stage3_gather_16bit_weights_on_model_save",
    "stage3_gather_fp16_weights_on_model_save",
)


def of_deepspeed(settings: Settings) -> Iterator[tuple[str, str]]:
    """Every mistake in DeepSpeed's fields, and what does not go with ZeRO."""
    fields = settings["deepspeed"]
    if not isinstance(fields, dict):
        return
    for fault in _faults(fields, settings):
        yield "deepspeed", fault
    stage = stage_of(fields)
    if stage and settings["pure_bf16"]:
        yield "pure_bf16", "keeps no fp32 copy of the weights, and ZeRO does; write bf16: true"
    if stage and settings["save_async"]:
        yield "save_async", "is for DDP and FSDP, and weights under ZeRO are saved whole; remove it"
    if settings["fsdp"] and settings["fsdp"][0].lower() not in ("false", "no", "off", "n", "0"):
        yield "fsdp", "cuts the weights in another way than deepspeed does; remove one of them"
    if stage and settings["tensor_parallel_size"] > 1:
        yield "tensor_parallel_size", "goes with fsdp and not with deepspeed; remove one of them"
    if stage == 3 and settings["quantization_bit"]:
        yield "quantization_bit", "holds weights in blocks, which ZeRO stage 3 cannot cut; write stage 2, or remove this"
    if stage == 3 and settings["stage"] in OWN_ANSWERS:
        message = "draws answers, of which processes have different numbers, and ZeRO stage 3 needs them in step"
        yield "stage", f"{settings['stage']} {message}; write stage 2 in DeepSpeed's file"


def _faults(fields: dict[str, Any], settings: Settings) -> Iterator[str]:
    """What is wrong with each field: unknown, without a place here, or against what the YAML says."""
    said_again = [path[0] for path in _SAME if len(path) == 1]
    known = ("train_batch_size", "zero_force_ds_cpu_optimizer", *said_again, *_WHOLE, *_UNREAD)
    yield from _of_names(fields, "", known, "root")
    if fields.get("train_batch_size", AUTO) != AUTO:
        yield "train_batch_size: depends on the number of processes; write auto, or leave it out"
    own = part_of(fields, "zero_optimization")
    for name in ("zero_optimization", "fp16", "bf16", "data_types"):
        known = {"zero_optimization": ("stage", *_OWN_PARTS), "data_types": ()}.get(name, ("enabled",))
        yield from _of_names(part_of(fields, name), f"{name}.", known, name)
    for name in ("offload_optimizer", "offload_param"):
        yield from _of_offload(own, name)
    if own.get("stage", 0) not in (0, 1, 2, 3):
        yield f"zero_optimization.stage: saw {own['stage']}, wanted 0, 1, 2 or 3"
    if part_of(fields, "tensor_parallel").get("autotp_size", 1) not in (0, 1) or fields.get("sequence_parallel_size", 1) != 1:
        yield "tensor_parallel: DeepSpeed's automatic tensor parallelism is not in this version; leave it out"
    yield from _of_optimizer(fields, settings)
    yield from _of_the_yaml(fields, settings)


def notes_of_deepspeed(settings: Settings) -> Iterator[str]:
    """Lines about fields that change nothing."""
    fields = settings["deepspeed"]
    if not isinstance(fields, dict):
        return
    for name in _UNREAD:
        if name in fields:
            yield f"deepspeed: {name} is read by nobody, DeepSpeed neither: trainer_log.jsonl has the run's figures"
    own = part_of(fields, "zero_optimization")
    for name in _OWN_PARTS[2:]:
        if own.get(name) is False:
            yield f"deepspeed: {name}: false has nothing to do here: what is saved is always whole"
    if own.get("round_robin_gradients") and stage_of(fields):
        yield (
            "deepspeed: round_robin_gradients is left off: DeepSpeed then loses which number is whose (seen with 0.19.8), so "
            "that weights and moments could not be saved by name"
        )
    if own.get("stage", 0) == 0:
        yield "deepspeed: ZeRO stage 0 shares nothing out: it is DDP, and runs as that"


def _of_names(fields: dict[str, Any], before: str, known: tuple[str, ...], part: str) -> Iterator[str]:
    names = (*known, *known_fields(part))
    for name, value in fields.items():
        if name in names or name.startswith("_"):
            continue
        if part == "root" and name in table()["may_be_off"] and isinstance(value, dict) and value.get("enabled", False) is False:
            continue
        refused = table()[part]["refused"].get(name)
        near = nearest(name, [*names, *table()[part]["refused"]])
        yield f"{before}{name}: {refused or f'unknown field of DeepSpeed{near}; remove it'}"


def _of_offload(own: dict[str, Any], name: str) -> Iterator[str]:
    part = part_of(own, name)
    where = f"zero_optimization.{name}"
    yield from _of_names(part, f"{where}.", ("device",), "offload")
    device, stage = part.get("device", "none"), own.get("stage", 0)
    if device not in ("none", "cpu"):
        yield f"{where}.device: {device} is not in this version; write cpu, or none"
    if device == "cpu" and (stage == 0 or (name == "offload_param" and stage != 3)):
        needed = "3" if name == "offload_param" else "1, 2 or 3"
        yield f"{where}: has no effect with stage {stage}; write stage {needed}, or leave it out"


def _of_optimizer(fields: dict[str, Any], settings: Settings) -> Iterator[str]:
    if part_of(fields, "zero_optimization").get("stage", 0) == 0:
        return
    kind, part = settings["optim"], part_of(fields, "optimizer")
    if kind not in ELEMENTWISE:
        yield (
            f"optim: {kind} looks at a weight as a whole, or keeps its moments in blocks, and ZeRO cuts weights anywhere; write "
            f"optim: adamw_torch, or one of {', '.join(ELEMENTWISE[2:])}"
        )
    if part and str(part.get("type", "")).lower() not in ("adam", "adamw"):
        yield f"optimizer.type: {part.get('type')} is not in this version; leave optimizer out, and write optim in the YAML"
    elif part and not kind.startswith("adamw"):
        yield f"optimizer.type: {part['type']} is not optim: {kind} of the YAML; leave one of them out"
    params = part_of(part, "params")
    for name in params:
        if name not in ("lr", "betas", "eps", "weight_decay", "torch_adam", "adam_w_mode", "bias_correction"):
            yield f"optimizer.params.{name}: is not in this version; leave it out"
    if params.get("adam_w_mode", True) is not True or params.get("bias_correction", True) is not True:
        yield "optimizer.params: AdamW with its correction of the bias is the one there is; leave them out"
    betas = params.get("betas", AUTO)
    if betas not in (AUTO, [settings["adam_beta1"], settings["adam_beta2"]]):
        yield f"optimizer.params.betas: {betas} is not adam_beta1, adam_beta2 of the YAML; write auto, or the same there"
    if fields.get("zero_allow_untested_optimizer") is False and not kind.startswith("adamw"):
        yield f"zero_allow_untested_optimizer: false does not allow optim: {kind}; write true, or optim: adamw_torch"
    if zero_of(fields).forces_cpu_adam and not kind.startswith("adamw"):
        yield f"zero_force_ds_cpu_optimizer: true is AdamW, and optim is {kind}; write false, or optim: adamw_torch"


def _of_the_yaml(fields: dict[str, Any], settings: Settings) -> Iterator[str]:
    """Fields that say again what the YAML says: auto, or the same."""
    for path, key in _SAME.items():
        found: Any = fields
        for name in path:
            found = found.get(name, AUTO) if isinstance(found, dict) else AUTO
        wanted = settings[key]
        if found != AUTO and (isinstance(found, bool) != isinstance(wanted, bool) or found != wanted):
            said = str(wanted).lower() if isinstance(wanted, bool) else wanted
            yield f"{'.'.join(path)}: saw {json.dumps(found)}, and {key} in the YAML is {said}; write auto, or the same in both"
