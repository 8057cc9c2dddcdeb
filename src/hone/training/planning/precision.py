"""Precision: whether `bf16: auto` means bfloat16 on this machine: where its device multiplies it by instructions of its own.

Does not know what is computed, nor what else the settings say of number formats.
"""

from __future__ import annotations

import torch

from hone import log
from hone.config.run import Run
from hone.kernels.machine import Machine
from hone.training.planning.fallbacks import require_precision
from hone.training.planning.plan import precision_of


def settled(run: Run, machine: Machine) -> Run:
    """The run with `bf16: auto` put in terms of this hardware, which is said; any other run as it is.

    By what the hardware has and not by a measurement, so that a run that is continued computes as it did.
    Raises RunError for a format that was asked for and cannot be had.
    """
    require_precision(run, machine)
    if run.train.bf16 != "auto":
        return run
    has = machine.bf16 == "products"
    log.info(f"bf16: auto: {'bfloat16' if has else 'float32'}, as {_why(machine)}")
    return run.model_copy(update={"train": run.train.model_copy(update={"bf16": has})})


def load_dtype(run: Run) -> torch.dtype:
    """Frozen weights take the compute type; weights that are all trained are fp32 unless pure_bf16 says otherwise."""
    if run.adapter.kind in ("full", "freeze") and not run.train.pure_bf16:
        return torch.float32
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "no": torch.float32}[precision_of(run.train)]


def _why(machine: Machine) -> str:
    if machine.kind == "cpu":
        return f"this {machine}".replace("CPU with", "CPU has")
    known = {"products": "has products of it", "none": "has no products of it", "emulated": "is not known to multiply it itself"}
    return f"{machine} {known[machine.bf16]}"
