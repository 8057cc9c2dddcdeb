"""Zero: what each field of DeepSpeed's settings (`deepspeed`, a JSON file or a mapping) means in a run, or why it has no place.

Does not know DeepSpeed: it can be read, and its mistakes told, where that is not installed.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from hone.config.settings import Settings
from hone.table import nearest

AUTO = "auto"
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


@dataclass(frozen=True)
class Zero:
    """What DeepSpeed is to do. passed: fields that are its own; forces_cpu_adam: its AdamW for the CPU is asked for by name."""

    stage: int
    offloads: bool
    forces_cpu_adam: bool
    passed: dict[str, Any] = field(default_factory=dict)

    def filled(self, *, precision: str, width: int) -> dict[str, Any]:
        """As deepspeed.initialize takes it. width: of the hidden states, from which Hugging Face reckons what is left to `auto`.

        The loop divides the loss and says which micro-batch is a step's last, so DeepSpeed counts one of them a step.
        """
        sizes = {
            "reduce_bucket_size": width * width,
            "stage3_prefetch_bucket_size": int(0.9 * width * width),
            "stage3_param_persistence_threshold": 10 * width,
        }
        own = dict(self.passed["zero_optimization"])
        own |= {name: size for name, size in sizes.items() if own.get(name) == AUTO}
        return {
            "steps_per_print": 10**9,
            "zero_allow_untested_optimizer": True,
            **self.passed,
            "zero_optimization": own,
            "zero_force_ds_cpu_optimizer": self.forces_cpu_adam,
            "fp16": {**self.passed.get("fp16", {}), "enabled": precision == "fp16"},
            "bf16": {"enabled": precision == "bf16"},
            "gradient_clipping": 0.0,
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
        }


def opened(value: str | dict[str, Any]) -> dict[str, Any]:
    """The settings of a file, or as they were written; ValueError says what is wrong with the file."""
    if isinstance(value, dict):
        return value
    path = Path(value)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise ValueError(f"{value} cannot be read: {problem.strerror}; name DeepSpeed's JSON file") from problem
    except ValueError as problem:
        raise ValueError(f"{value} is no JSON: {problem}") from problem
    if not isinstance(found, dict):
        raise ValueError(f"{value} holds no mapping; name DeepSpeed's JSON file")
    return found


def zero_of(fields: dict[str, Any]) -> Zero:
    """What settings without faults ask for."""
    own = _part(fields, "zero_optimization")
    offload = {name: part for name in ("offload_optimizer", "offload_param") if (part := _part(own, name)) and _offloads(part)}
    kept = {name: value for name, value in own.items() if name in ("stage", *_fields("zero_optimization"))}
    passed = {name: value for name, value in fields.items() if name in _fields("root")}
    for name in ("fp16", "data_types"):
        passed |= {name: {key: part for key, part in _part(fields, name).items() if key in _fields(name)}}
    return Zero(
        stage=int(own.get("stage", 0)),
        offloads="offload_optimizer" in offload,
        forces_cpu_adam="offload_optimizer" in offload and fields.get("zero_force_ds_cpu_optimizer") is True,
        passed={**passed, "zero_optimization": {**kept, **offload}},
    )


def faults(fields: dict[str, Any], settings: Settings) -> Iterator[str]:
    """What is wrong with each field: unknown, without a place here, or against what the YAML says."""
    yield from _of_names(fields, "", ("train_batch_size", "zero_force_ds_cpu_optimizer", "optimizer", *_PARTS, *_UNREAD), "root")
    if fields.get("train_batch_size", AUTO) != AUTO:
        yield "train_batch_size: depends on the number of processes; write auto, or leave it out"
    own = _part(fields, "zero_optimization")
    for name in ("zero_optimization", "fp16", "bf16", "data_types"):
        known = {"zero_optimization": ("stage", *_OWN_PARTS), "data_types": ()}.get(name, ("enabled",))
        yield from _of_names(_part(fields, name), f"{name}.", known, name)
    for name in ("offload_optimizer", "offload_param"):
        yield from _of_offload(own, name)
    if own.get("stage", 0) not in (0, 1, 2, 3):
        yield f"zero_optimization.stage: saw {own['stage']}, wanted 0, 1, 2 or 3"
    if _part(fields, "tensor_parallel").get("autotp_size", 1) not in (0, 1) or fields.get("sequence_parallel_size", 1) != 1:
        yield "tensor_parallel: DeepSpeed's automatic tensor parallelism is not in this version; leave it out"
    yield from _of_optimizer(fields, settings)
    yield from _of_the_yaml(fields, settings)


_PARTS = ("zero_optimization", "fp16", "bf16", "data_types", "tensor_parallel", "sequence_parallel_size") + tuple(
    path[0] for path in _SAME if len(path) == 1
)
_OWN_PARTS = (
    "offload_optimizer",
    "offload_param",
    "stage3_gather_16bit_weights_on_model_save",
    "stage3_gather_fp16_weights_on_model_save",
)


def notes(fields: dict[str, Any]) -> Iterator[str]:
    """Lines about fields that change nothing."""
    for name in _UNREAD:
        if name in fields:
            yield f"deepspeed: {name} is read by nobody, DeepSpeed neither: trainer_log.jsonl has the run's figures"
    own = _part(fields, "zero_optimization")
    for name in _OWN_PARTS[2:]:
        if own.get(name) is False:
            yield f"deepspeed: {name}: false has nothing to do here: what is saved is always whole"
    if own.get("stage", 0) == 0:
        yield "deepspeed: ZeRO stage 0 shares nothing out: it is DDP, and runs as that"


def _of_names(fields: dict[str, Any], before: str, known: tuple[str, ...], part: str) -> Iterator[str]:
    names = (*known, *_fields(part))
    for name, value in fields.items():
        if name in names or name.startswith("_"):
            continue
        if part == "root" and name in _table()["may_be_off"] and isinstance(value, dict) and value.get("enabled", False) is False:
            continue
        refused = _table()[part]["refused"].get(name)
        near = nearest(name, [*names, *_table()[part]["refused"]])
        yield f"{before}{name}: {refused or f'unknown field of DeepSpeed{near}; remove it'}"


def _of_offload(own: dict[str, Any], name: str) -> Iterator[str]:
    part = _part(own, name)
    where = f"zero_optimization.{name}"
    yield from _of_names(part, f"{where}.", ("device",), "offload")
    device, stage = part.get("device", "none"), own.get("stage", 0)
    if device not in ("none", "cpu"):
        yield f"{where}.device: {device} is not in this version; write cpu, or none"
    if device == "cpu" and (stage == 0 or (name == "offload_param" and stage != 3)):
        needed = "3" if name == "offload_param" else "1, 2 or 3"
        yield f"{where}: has no effect with stage {stage}; write stage {needed}, or leave it out"


def _of_optimizer(fields: dict[str, Any], settings: Settings) -> Iterator[str]:
    if _part(fields, "zero_optimization").get("stage", 0) == 0:
        return
    kind, part = settings["optim"], _part(fields, "optimizer")
    if kind not in ELEMENTWISE:
        yield (
            f"optim: {kind} looks at a weight as a whole, or keeps its moments in blocks, and ZeRO cuts weights anywhere; write "
            f"optim: adamw_torch, or one of {', '.join(ELEMENTWISE[2:])}"
        )
    if part and str(part.get("type", "")).lower() not in ("adam", "adamw"):
        yield f"optimizer.type: {part.get('type')} is not in this version; leave optimizer out, and write optim in the YAML"
    elif part and not kind.startswith("adamw"):
        yield f"optimizer.type: {part['type']} is not optim: {kind} of the YAML; leave one of them out"
    params = _part(part, "params")
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
        if key == "bf16" and (wanted == AUTO or found is False) and not fields.get("zero_optimization", {}).get("stage", 0):
            continue
        if found != AUTO and (isinstance(found, bool) != isinstance(wanted, bool) or found != wanted):
            said = str(wanted).lower() if isinstance(wanted, bool) else wanted
            yield f"{'.'.join(path)}: saw {json.dumps(found)}, and {key} in the YAML is {said}; write auto, or the same in both"


def _part(fields: dict[str, Any], name: str) -> dict[str, Any]:
    found = fields.get(name)
    return found if isinstance(found, dict) else {}


def _offloads(part: dict[str, Any]) -> bool:
    return part.get("device", "none") != "none"


def _fields(part: str) -> tuple[str, ...]:
    return tuple(_table()[part]["fields"])


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads((files("hone.config") / "deepspeed.toml").read_text(encoding="utf-8"))
