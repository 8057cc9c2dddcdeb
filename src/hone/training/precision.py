"""Precision: whether `bf16: auto` means bfloat16 on this machine: where its device multiplies it by instructions of its own.

Does not know what is computed, nor what else the settings say of number formats.
"""

from __future__ import annotations

import torch

from hone import log
from hone.config.run import Run


def settled(run: Run) -> Run:
    """The run with `bf16: auto` put in terms of this machine, which is said; any other run as it is.

    By what the hardware has and not by a measurement, so that a run that is continued computes as it did.
    """
    if run.train.bf16 != "auto":
        return run
    device = "cpu" if run.train.use_cpu or not torch.accelerator.is_available() else torch.accelerator.current_accelerator().type
    has, why = _multiplies_bf16(device)
    log.info(f"bf16: auto: {'bfloat16' if has else 'float32'}, as {why}")
    return run.model_copy(update={"train": run.train.model_copy(update={"bf16": has})})


def _multiplies_bf16(device: str) -> tuple[bool, str]:
    if device == "cuda":
        has = torch.cuda.is_bf16_supported(including_emulation=False)
        return has, f"this GPU has {'' if has else 'no '}products of it"
    if device == "cpu":
        sets = {"AMX": torch.cpu._is_amx_tile_supported(), "AVX512-BF16": torch.cpu._is_avx512_bf16_supported()}
        found = next((name for name, here in sets.items() if here), "")
        return bool(found), f"this CPU has {found or 'neither AVX512-BF16 nor AMX'}"
    return False, f"nothing is known of {device}"
