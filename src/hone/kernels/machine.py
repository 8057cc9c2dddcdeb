"""Machine: the few facts of a device from which it follows how everything is computed on it.

Does not know what is computed. Thresholds stand here alone, so that what is chosen and what is told cannot differ.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

import torch

AMPERE, ADA, HOPPER = (8, 0), (8, 9), (9, 0)
"""Compute capabilities from which on NVIDIA's GPUs have bfloat16, flash attention and TF32; products in 8 bits of floating
point; the instructions of FlashAttention 3."""

Bf16 = Literal["products", "emulated", "none"]


@dataclass(frozen=True)
class Machine:
    """kind: torch's word for the device. capability: of an NVIDIA GPU, (0, 0) elsewhere. packages: of `OPTIONAL`, those here.

    bf16: it has products of bfloat16; it takes them in float32 and rounds; or neither, so that they are not to be asked for.
    """

    kind: str
    name: str
    bf16: Bf16
    capability: tuple[int, int] = (0, 0)
    packages: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return self.name + (f" (sm{self.capability[0]}{self.capability[1]})" if self.kind == "cuda" else "")


OPTIONAL = ("bitsandbytes", "triton")


def device_of(*, use_cpu: bool) -> torch.device:
    """The device of a run: the accelerator, where there is one and it is wanted."""
    if use_cpu or not torch.accelerator.is_available():
        return torch.device("cpu")
    return torch.device(torch.accelerator.current_accelerator().type)


def capability_of(device: torch.device) -> tuple[int, int]:
    """(9, 0) of a Hopper; (0, 0) of what is no NVIDIA GPU."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)


def machine_of(device: torch.device) -> Machine:
    """What `device` is."""
    packages = frozenset(name for name in OPTIONAL if find_spec(name))
    if device.type == "cuda":
        bf16: Bf16 = "products" if torch.cuda.is_bf16_supported(including_emulation=False) else "none"
        return Machine("cuda", torch.cuda.get_device_name(device), bf16, capability_of(device), packages)
    if device.type == "cpu":
        sets = {"AMX": torch.cpu._is_amx_tile_supported(), "AVX512-BF16": torch.cpu._is_avx512_bf16_supported()}
        found = next((name for name, here in sets.items() if here), "")
        name = f"CPU with {found or 'neither AVX512-BF16 nor AMX'}"
        return Machine("cpu", name, "products" if found else "emulated", packages=packages)
    if device.type == "mps":  # of Apple's GPUs only the newer ones multiply bfloat16 themselves, and none says so
        newer = torch.backends.mps.is_macos_or_newer(14, 0)
        return Machine("mps", f"Apple {platform.machine()} GPU", "emulated" if newer else "none", packages=packages)
    return Machine(device.type, device.type, "emulated", packages=packages)


def has_host_memory(kind: str) -> bool:
    """Whether the device's memory is another than the host's, which can be pinned and copied to beside the computation."""
    return kind == "cuda"
