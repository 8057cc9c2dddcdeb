"""Spread: how a run's model will lie on its processes, from its settings and the weights' shapes.

Does not know activations: what a process holds of the model itself, and in which types layers are handed their weights.
"""

from __future__ import annotations

import torch
from torch import nn

from hone.adapters.freeze import find_layers
from hone.config.run import Run
from hone.config.sharding import sharding_of
from hone.config.zero import zero_of
from hone.models.forward import find_causal
from hone.models.tap import output_head
from hone.training.engines.units import few_learn, find_units
from hone.training.planning.plan import precision_of
from hone.training.planning.sharding import Buffers, Sharding, alone, by_ddp, by_fsdp, by_zero, units_of, weighed

TYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_SUMMED = 4
"""Bytes of a number in which FSDP2 sums up gradients of 16 bits (engines.fsdp)."""


def sharding_of_run(run: Run, module: nn.Module, world: int, *, device: torch.device) -> Sharding:
    """What of the model one of the processes holds. world: of those that share out the batches."""
    parallel, several = run.parallel, run.train.gradient_accumulation_steps > 1
    if parallel.engine == "zero":
        return _by_zero(run, module, world, on_cpu=device.type == "cpu")
    if parallel.engine == "fsdp":
        return _by_fsdp(run, module, world * parallel.together, on_cpu=device.type == "cpu")
    units = units_of(module, _layers(module))
    return by_ddp(units, several=several) if world * parallel.together > 1 else alone(units, several=several)


def _layers(module: nn.Module) -> list[nn.Module]:
    return list(find_layers(find_causal(module))[1])


def _by_fsdp(run: Run, module: nn.Module, among: int, *, on_cpu: bool) -> Sharding:
    """Layers' weights are sent in the type of products, and their gradients in fp32; what is outside of them as it is held."""
    asked, half = sharding_of(run.parallel), precision_of(run.train) != "no"
    units = units_of(module, _layers(module), width=2 * half, summed=_SUMMED * half)
    return by_fsdp(
        among, units, reshards=asked.reshard, offloads=asked.offload, ahead=asked.ahead, copies=int(on_cpu),
        waits=few_learn(module), several=run.train.gradient_accumulation_steps > 1,
    )  # fmt: skip


def hand_out(run: Run, module: nn.Module) -> nn.Module:
    """A model without memory, given its weights in the types in which the run's engine hands them to it."""
    if run.parallel.engine == "zero" and zero_of(run.parallel.deepspeed or {}).stage == 3:
        for inner in module.modules():  # every module carries hooks there, and no kernel takes the place of several
            inner.register_forward_pre_hook(_nothing)
    if (precision := precision_of(run.train)) == "no" or run.parallel.engine == "ddp":
        return module
    whole = [module] if run.parallel.engine == "zero" else find_units(module, sharding_of(run.parallel).units)
    for inner in whole:
        for weight in inner.parameters():
            weight.data = weight.data.to(TYPES[precision])
    return module


def _by_zero(run: Run, module: nn.Module, among: int, *, on_cpu: bool) -> Sharding:
    """By the sizes that DeepSpeed will be given, and its own where nothing is said."""
    assert run.parallel.deepspeed is not None, "ZeRO without DeepSpeed's settings"
    precision, causal = precision_of(run.train), find_causal(module)
    zero = zero_of(run.parallel.deepspeed)
    fields = zero.filled(precision=precision, width=causal.config.get_text_config().hidden_size)["zero_optimization"]
    own = Buffers()
    buffers = Buffers(
        reduced=int(fields.get("reduce_bucket_size", own.reduced)),
        buckets=2 if fields.get("overlap_comm", zero.stage == 3) else 1,
        fetched=int(fields.get("stage3_prefetch_bucket_size", own.fetched)),
        small=int(fields.get("stage3_param_persistence_threshold", own.small)),
    )
    offloads = {"optimizer": "offload_optimizer", "weights": "offload_param"}
    return by_zero(
        zero.stage, among, weighed(module, _layers(module), head=output_head(causal), small=buffers.small),
        half=precision != "no", buffers=buffers, several=run.train.gradient_accumulation_steps > 1, on_cpu=on_cpu,
        offloaded=[part for part, key in offloads.items() if key in fields],
    )  # fmt: skip


def _nothing(_module: nn.Module, _inputs: object) -> None:
    """A hook that changes nothing."""
