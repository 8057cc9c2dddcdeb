"""Hardware: what a run is planned for: the device that is here, or one that is not, by name, out of its maker's data sheet.

Does not know the run.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files

import torch

from hone.errors import RunError
from hone.kernels.machine import AMPERE, OPTIONAL, Machine, machine_of
from hone.table import nearest
from hone.training.planning.memory import available_bytes
from hone.training.planning.rehearsal import Speed
from hone.training.planning.speed import speed_of

_PRODUCTS, _ATTENTION, _MEMORY = 0.7, 0.45, 0.8
"""The shares of a data sheet's numbers that large products, attention and plain operations are taken to reach."""
_ASKED = 8e-6
"""Seconds for torch to ask for an operation, however small."""
_CONTEXT = 6 * 2**29 // 5
"""Bytes of a GPU that CUDA itself takes."""


@dataclass(frozen=True)
class Hardware:
    """free: bytes that are there to be filled; speed: what it does in a second in a type.

    here: the device that tensors without memory say they are on while a pass is rehearsed: torch forms no graph for one that it
    has no driver of. named: what it was asked for by; "" for the device of this machine.
    """

    machine: Machine
    free: int
    speed: Callable[[torch.dtype], Speed]
    here: torch.device
    named: str = ""

    @property
    def device(self) -> torch.device:
        """As torch calls it."""
        return torch.device(self.machine.kind) if self.named else self.here


def hardware_of(device: torch.device, named: str = "") -> Hardware:
    """What is planned for: `device`, or in its place the GPU that is called so; RunError where none is."""
    if not named:
        return Hardware(machine_of(device), available_bytes(device), partial(speed_of, device), device)
    name = named.lower()
    if name not in _sheets():
        name = next((full for full in _sheets() if name in full.split()), "")  # "4090" is the RTX 4090
    if not name:
        raise RunError(
            f"--for {named}: no GPU of that name is known{nearest(named.lower(), list(_sheets()))}; there are "
            f"{', '.join(_sheets())}, each also as 8x{next(iter(_sheets()))}"
        )
    row = _sheets()[name]
    capability = divmod(round(10 * row["sm"]), 10)
    bf16 = "products" if capability >= AMPERE else "none"
    machine = Machine("cuda", row["name"], bf16, capability, frozenset(OPTIONAL))
    free = int(row["gib"] * 2**30) - _CONTEXT
    return Hardware(machine, free, partial(_by_sheet, name), torch.device("cpu"), named)


def count_named(asked: str) -> tuple[int, str]:
    """ "8xh100" and "8 x h100": eight of them; "h100": one. RunError for none."""
    number, cross, name = asked.partition("x")
    many = cross and number.strip().isdecimal()
    count, name = (int(number), name.strip()) if many else (1, asked.strip())
    if not name or not count:
        raise RunError(f"--for {asked}: write a number above 0 and the name of a GPU, as in --for 8xh100")
    return count, name


def _by_sheet(named: str, dtype: torch.dtype) -> Speed:
    row = _sheets()[named]
    flops = 1e12 * row["single" if dtype == torch.float32 else "half"]
    moved = _MEMORY * 1e9 * row["gb"]
    return Speed(_PRODUCTS * flops, _PRODUCTS * flops, _ATTENTION * flops, moved, moved, _ASKED)


@cache
def _sheets() -> dict[str, dict[str, float | str]]:
    return tomllib.loads((files("hone.training.planning") / "hardware.toml").read_text(encoding="utf-8"))
