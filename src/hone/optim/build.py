"""The table of optimizers by their Hugging Face names, and the schedule that moves their learning rates.

Does not know the model beyond its weights' names, nor the loop that steps them.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from hone.config.optimizer import OptimizerConfig
from hone.errors import ConfigError, Mistake
from hone.optim.adafactor import Adafactor
from hone.optim.adamw_bf16 import AdamWBf16
from hone.optim.bnb import build_bnb, require_bitsandbytes
from hone.optim.groups import parameter_groups
from hone.optim.schedules import SCHEDULES, Factor, Span
from hone.table import nearest

Groups = list[dict[str, Any]]
Builder = Callable[[Groups, OptimizerConfig], torch.optim.Optimizer]


def _adamw(groups: Groups, optimizer: OptimizerConfig) -> torch.optim.Optimizer:
    betas = (optimizer.adam_beta1, optimizer.adam_beta2)
    return torch.optim.AdamW(groups, lr=optimizer.learning_rate, betas=betas, eps=optimizer.adam_epsilon)


def _fused_adamw(groups: Groups, optimizer: OptimizerConfig) -> torch.optim.Optimizer:
    betas = (optimizer.adam_beta1, optimizer.adam_beta2)
    return torch.optim.AdamW(groups, lr=optimizer.learning_rate, betas=betas, eps=optimizer.adam_epsilon, fused=True)


def _adamw_bf16(groups: Groups, optimizer: OptimizerConfig) -> torch.optim.Optimizer:
    betas = (optimizer.adam_beta1, optimizer.adam_beta2)
    return AdamWBf16(groups, lr=optimizer.learning_rate, betas=betas, eps=optimizer.adam_epsilon)


def _adafactor(groups: Groups, optimizer: OptimizerConfig) -> torch.optim.Optimizer:
    return Adafactor(groups, lr=optimizer.learning_rate)


def _sgd(groups: Groups, optimizer: OptimizerConfig) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=optimizer.learning_rate)


def _adagrad(groups: Groups, optimizer: OptimizerConfig) -> torch.optim.Optimizer:
    return torch.optim.Adagrad(groups, lr=optimizer.learning_rate)


def _rmsprop(groups: Groups, optimizer: OptimizerConfig) -> torch.optim.Optimizer:
    return torch.optim.RMSprop(groups, lr=optimizer.learning_rate)


OPTIMIZERS: dict[str, Builder] = {
    "adamw_torch": _adamw,
    "adamw_torch_fused": _adamw,
    "adamw_bf16": _adamw_bf16,
    "adafactor": _adafactor,
    "sgd": _sgd,
    "adagrad": _adagrad,
    "rmsprop": _rmsprop,
    "adamw_8bit": build_bnb,
    "adamw_bnb_8bit": build_bnb,
    "paged_adamw": build_bnb,
    "paged_adamw_32bit": build_bnb,
    "paged_adamw_8bit": build_bnb,
    "lion_32bit": build_bnb,
    "lion_8bit": build_bnb,
    "paged_lion_32bit": build_bnb,
    "paged_lion_8bit": build_bnb,
}


_FUSES = ("cpu", "cuda", "mps", "xpu")
"""Devices on which torch has one step of AdamW for all weights: a third of the time for LoRA's many small ones, on a CPU."""


def build_optimizer(module: nn.Module, optimizer: OptimizerConfig, *, skips: bool = False) -> torch.optim.Optimizer:
    """The optimizer over the weights of `module` that learn, biases and norms without weight decay, as in Hugging Face.

    skips: whether steps may be left out (fp16's loss scaling), of which a fused optimizer does not tell the schedule.
    Raises ConfigError for an unknown name, MissingExtra for one that needs a package, ModelError for LoRA+ without LoRA.
    """
    if optimizer.kind not in OPTIMIZERS:
        raise _mistake(
            "optim", f'"{optimizer.kind}" is not one of {", ".join(OPTIMIZERS)}{nearest(optimizer.kind, [*OPTIMIZERS])}'
        )
    groups, build = parameter_groups(module, optimizer), OPTIMIZERS[optimizer.kind]
    fuses = build is _adamw and not skips and all(weight.device.type in _FUSES for one in groups for weight in one["params"])
    return (_fused_adamw if fuses else build)(groups, optimizer)


def require_optimizer(optimizer: OptimizerConfig) -> None:
    """MissingExtra for an optimizer of a package that is not installed."""
    if OPTIMIZERS.get(optimizer.kind) is build_bnb:
        require_bitsandbytes(optimizer)


def build_schedule(torch_optimizer: torch.optim.Optimizer, optimizer: OptimizerConfig, num_steps: int) -> LambdaLR:
    """The schedule of a run of `num_steps` optimizer steps; step it after each.

    Raises ConfigError for an unknown name or number of the schedule, and for one that follows a metric.
    """
    factor = schedule_factor(optimizer, num_steps)
    return LambdaLR(torch_optimizer, factor)


def schedule_factor(optimizer: OptimizerConfig, num_steps: int) -> Factor:
    """Step -> share of the highest learning rate; see build_schedule."""
    name = optimizer.lr_scheduler_type
    if name == "reduce_lr_on_plateau":
        raise _mistake(
            "lr_scheduler_type", "reduce_lr_on_plateau follows the evaluation loss, which the loop does not feed; write cosine"
        )
    if name not in SCHEDULES:
        raise _mistake("lr_scheduler_type", f'"{name}" is not one of {", ".join(SCHEDULES)}{nearest(name, [*SCHEDULES])}')
    make, numbers = SCHEDULES[name], optimizer.lr_scheduler_kwargs
    known = [key for key in inspect.signature(make).parameters if key != "span"]
    for key in numbers:
        if key not in known:
            raise _mistake(
                "lr_scheduler_kwargs", f'{name} has no number "{key}"{nearest(key, known)}; it has {", ".join(known) or "none"}'
            )
    try:
        return make(Span(warmup_steps(optimizer, num_steps), num_steps, optimizer.learning_rate), **numbers)
    except ValueError as problem:
        raise _mistake("lr_scheduler_kwargs", f"{name}: {problem}") from problem


def warmup_steps(optimizer: OptimizerConfig, num_steps: int) -> int:
    """Steps of the warm-up: warmup_steps, a share of all where below 1; else warmup_ratio of all, rounded up."""
    asked = optimizer.warmup_steps
    if asked >= 1:
        return int(asked)
    return math.ceil(num_steps * (asked or optimizer.warmup_ratio))


def _mistake(key: str, message: str) -> ConfigError:
    return ConfigError([Mistake("", key, message)])
