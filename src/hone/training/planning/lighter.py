"""Lighter: what else could be written where a run does not fit however its batches and activations are chosen.

Does not know what a way takes. None is ever taken: it is told. All but shares learn otherwise than what was asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hone.config.adapter import Lora
from hone.config.model import Quantization
from hone.config.run import Run
from hone.kernels.machine import Machine
from hone.training.planning.plan import precision_of


def ways(run: Run, machine: Machine) -> Iterator[tuple[str, Run]]:
    """Settings in words and the run with them, from what is nearest to what was asked for to what takes the least."""
    half = {} if precision_of(run.train) != "no" else _half(machine)
    written = [f"{key}: true" for key in half]
    run = _with(run, "train", **half)
    if run.adapter.kind in ("full", "freeze"):
        if machine.bf16 == "products" and not run.train.pure_bf16:
            pure = _with(_with(run, "train", pure_bf16=True, bf16=True, fp16=False), "optimizer", kind="adamw_bf16")
            yield "pure_bf16: true, optim: adamw_bf16", pure
        run = _with(run, "train", pure_bf16=False).model_copy(update={"adapter": Lora()})
        written.insert(0, "finetuning_type: lora")
        yield ", ".join(written), run
    elif half:
        yield ", ".join(written), run
    if run.model.quantization is None and run.parallel.engine != "zero" and run.parallel.tensor_parallel_size == 1:
        few = _with(run, "model", quantization=Quantization(bit=4, double=True))
        yield ", ".join([*written, "quantization_bit: 4, double_quantization: true"]), few


def in_shares(run: Run, world: int) -> tuple[str, Run]:
    """The setting by which several processes share the weights that each holds whole, and the run with it; "" where they do."""
    if world == 1 or run.parallel.engine != "ddp":
        return "", run
    return "fsdp: full_shard auto_wrap", _with(run, "parallel", fsdp=("full_shard", "auto_wrap"))


def _half(machine: Machine) -> dict[str, bool]:
    if machine.bf16 == "products":
        return {"bf16": True}
    return {"fp16": True} if machine.kind == "cuda" else {}


def _with(run: Run, section: str, **changes: Any) -> Run:
    return run.model_copy(update={section: getattr(run, section).model_copy(update=changes)})
