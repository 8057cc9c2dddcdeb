"""Choose: how many sequences go at once and which activations are kept, the fastest that fits into the free memory.

Does not know how memory and time are told; what a step learns from is never changed by a choice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from hone.config.run import Run
from hone.data.build import TokenSet
from hone.kernels.machine import has_host_memory
from hone.models.checkpointing import Activations
from hone.objectives.base import Objective
from hone.training.planning.forecast import Forecast, forecast
from hone.training.planning.hardware import Hardware, hardware_of
from hone.training.planning.lighter import in_shares, ways
from hone.training.planning.memory import sized
from hone.training.planning.plan import in_words

ROOM = 0.8
"""The share of the free memory that a plan may fill: an estimate is none, and others use the machine too."""

Try = Callable[[int, Activations], Forecast]


@dataclass(frozen=True)
class Choice:
    """micro: sequences at once; accumulation: how often for a step. fits: into ROOM of what is free. why: in words.

    instead: what to write where what was asked for does not fit and something else does, if need be what learns otherwise.
    """

    micro: int
    accumulation: int
    activations: Activations
    forecast: Forecast
    free: int
    fits: bool
    why: str
    instead: str = ""

    def settle(self, run: Run) -> Run:
        """The run with these numbers in place of auto."""
        return with_batch(run, self.micro, self.accumulation)


def with_batch(run: Run, micro: int, accumulation: int) -> Run:
    """The run with other numbers of the same product."""
    numbers = {"per_device_train_batch_size": micro, "gradient_accumulation_steps": accumulation}
    return run.model_copy(update={"train": run.train.model_copy(update=numbers)})


def choose(run: Run, objective: Objective, tokens: TokenSet, *, device: torch.device, world: int, named: str = "") -> Choice:
    """What the settings leave open, chosen; and what they do not, held against the free memory. named: as of a forecast."""
    hardware, per_step = hardware_of(device, named), sequences_of_a_step(run)
    free = hardware.free

    def under(run: Run, micro: int, kind: Activations) -> Forecast:
        settled = with_batch(run, micro, per_step // micro)
        return forecast(settled, objective, tokens, kind, device=device, world=world, named=named)

    one = partial(under, run)
    asked = run.train.per_device_train_batch_size
    micros = divisors(per_step) if asked == "auto" else [asked]
    kinds = _kinds(run, hardware.device)
    found = fastest(one, micros, kinds, free)
    open_ones = [
        key for key, many in (("per_device_train_batch_size", micros), ("gradient_checkpointing", kinds)) if len(many) > 1
    ]
    why = f"the fastest that fits, by the estimate ({' and '.join(open_ones)}: auto)" if open_ones else "as asked for"
    if found is not None:
        return Choice(found[0], per_step // found[0], found[1], found[2], free, True, why)
    micro, kind = micros[-1], kinds[-1]
    least = one(micro, kind)
    smaller = [micro] if objective.mixes_rows else [number for number in divisors(per_step) if number <= micros[0]]
    instead = _instead(run, under, smaller, per_step, hardware, world)
    if len(open_ones):
        why = "the least memory there is to choose, though more than is free"
    return Choice(micro, per_step // micro, kind, least, free, False, why, instead)


def _instead(
    run: Run,
    under: Callable[[Run, int, Activations], Forecast],
    micros: list[int],
    per_step: int,
    hardware: Hardware,
    world: int,
) -> str:
    """The first that fits of what learns the same, and of the lighter ways with the largest and the smallest micro-batch.

    "" where none does.
    """
    share, shared = in_shares(run, world)
    ends = list(dict.fromkeys((micros[0], micros[-1])))
    tries = [("", run, micros, ""), *([(share, shared, micros, "")] if share else [])]
    for words, other in ways(shared, hardware.machine):
        tries.append((", ".join(filter(None, (share, words))), other, ends, ", which learns otherwise"))
    for words, other, sizes, what in tries:
        if found := fastest(partial(under, other), sizes, _every(hardware.device), hardware.free):
            return _words(words, per_step, *found) + what
    return ""


def sequences_of_a_step(run: Run) -> int:
    """That a device takes in an optimizer step; with auto, gradient_accumulation_steps counts them one by one."""
    asked = run.train.per_device_train_batch_size
    return run.train.gradient_accumulation_steps * (1 if asked == "auto" else asked)


def divisors(number: int) -> list[int]:
    """From the largest down, so that every micro-batch of a step is as large as the others."""
    return [part for part in range(number, 0, -1) if number % part == 0]


def _every(device: torch.device) -> list[Activations]:
    """From the fastest to the one that takes least."""
    return ["kept", "selective", "full", *(["offloaded"] if has_host_memory(device.type) else [])]


def _kinds(run: Run, device: torch.device) -> list[Activations]:
    asked, kind = run.train.gradient_checkpointing, run.train.gradient_checkpointing_kind
    if asked == "auto":
        return ["kept", kind] if kind else _every(device)
    return [kind or "full"] if asked else ["kept"]


def fastest(one: Try, micros: list[int], kinds: list[Activations], free: int) -> tuple[int, Activations, Forecast] | None:
    """The shortest step of those that fit: larger micro-batches are tried first, and smaller ones while they are faster.

    A slower kind is tried only for micro-batches that are too large for the kinds before it.
    """
    best, too_large = None, micros
    for kind in kinds:
        tried: list[tuple[int, Forecast]] = []
        for micro in too_large:
            found = one(micro, kind)
            if found.memory.needed > ROOM * free:
                continue
            tried.append((micro, found))
            if len(tried) > 1 and found.seconds >= tried[-2][1].seconds:
                break
        for micro, found in tried:
            if best is None or found.seconds < best[2].seconds:
                best = micro, kind, found
        too_large = [micro for micro in too_large if not tried or micro > tried[0][0]]
        if not too_large:
            break
    return best


def _words(written: str, per_step: int, micro: int, kind: Activations, found: Forecast) -> str:
    """The settings as they are written, and what they take. written: others beside them; "" for none."""
    how = "gradient_checkpointing: false" if kind == "kept" else "gradient_checkpointing: true"
    how += f", gradient_checkpointing_kind: {kind}" if kind in ("selective", "offloaded") else ""
    return (
        f"{written}{', ' if written else ''}per_device_train_batch_size: {micro}, gradient_accumulation_steps: "
        f"{per_step // micro}, {how} "
        f"(about {sized(found.memory.needed, found.memory.total)}, {in_words(found.seconds)} a step)"
    )
