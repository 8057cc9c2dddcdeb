"""Fallbacks: what each part of a run does instead where the hardware lacks what the fastest way needs; and what it cannot do.

Does not know a device: facts alone, so that every kind of hardware can be asked about on any. docs/hardware.md has the table.
"""

from __future__ import annotations

from collections.abc import Iterator

from hone.config.run import Run
from hone.errors import RunError
from hone.kernels.machine import ADA, AMPERE, Machine, has_host_memory
from hone.training.planning.plan import precision_of

_16_BITS = ("bf16", "fp16")


def require_precision(run: Run, machine: Machine) -> None:
    """RunError for a number format that was asked for and that this hardware does not compute in."""
    train = run.train
    if train.fp16 and machine.kind == "cpu":
        raise RunError("fp16: true needs an accelerator, and this run is on the CPU; write bf16: auto, or leave it out")
    asked = next((key for key in ("bf16", "pure_bf16") if getattr(train, key) is True), "")
    if asked and machine.bf16 == "none":
        raise RunError(
            f"{asked}: true: {machine} has no products of bfloat16; write bf16: auto, which computes in float32 here, or fp16: "
            "true, which is faster"
        )
    if train.tf32 and machine.capability < AMPERE:
        raise RunError(f"tf32: true needs an NVIDIA GPU of Ampere or newer, this run is on {machine}; leave it out")


def require_states(run: Run, machine: Machine) -> None:
    """RunError for optimizer states that bitsandbytes has no step for on this hardware."""
    kind = run.optimizer.kind
    if ("8bit" in kind or "paged" in kind) and machine.kind not in ("cuda", "xpu", "cpu"):
        raise RunError(
            f"optim: {kind}: bitsandbytes has no such step on {machine}; write optim: adamw_bf16, which needs little too"
        )


def fallbacks(run: Run, machine: Machine) -> tuple[str, ...]:
    """Each part of the run that takes a slower way here than on other hardware, and why. run: with its precision settled."""
    parts = (_precision, _attention, _kernels, _weights, _optimizer, _memory)
    return tuple(line for part in parts for line in part(run, machine))


def _precision(run: Run, machine: Machine) -> Iterator[str]:
    if precision_of(run.train) == "bf16" and machine.bf16 == "emulated":
        yield f"products: {machine} may take those of bfloat16 in float32, with rounding; bf16: auto would compute in float32"
    if run.train.fp16 and machine.kind == "cuda" and machine.capability >= AMPERE:
        yield "products: float16 with loss scaling, as asked for; this GPU has bfloat16, which needs none"


def _attention(run: Run, machine: Machine) -> Iterator[str]:
    half = precision_of(run.train) in _16_BITS
    if run.model.flash_attn == "auto" and not (half and machine.capability >= AMPERE):
        yield (
            "attention: torch's own, each sequence of a row by itself; one call for all of them needs an NVIDIA GPU of Ampere or "
            "newer, and 16 bits"
        )


def _kernels(run: Run, machine: Machine) -> Iterator[str]:
    if run.train.fused_kernels != "auto" or machine.kind == "cpu":
        return
    if machine.kind == "cuda" and "triton" in machine.packages:
        why = "fused_kernels: true takes Triton kernels, which have not run on a device yet"
    else:
        why = "no Triton is installed" if machine.kind == "cuda" else f"there is no Triton for {machine.kind}"
    yield f"norms, rotary codes, gated products: as the family computes them; {why}"


def _weights(run: Run, machine: Machine) -> Iterator[str]:
    quantization = run.model.quantization
    if quantization and quantization.method == "fp8" and machine.capability < ADA:
        yield "weights in float8: turned back into numbers at each product; products in 8 bits need an NVIDIA GPU of Ada or newer"
    if quantization and quantization.method == "fp8" and machine.capability >= ADA and precision_of(run.train) != "bf16":
        yield "weights in float8: turned back into numbers at each product; products in 8 bits need bf16: true"
    if quantization and quantization.method == "bnb" and machine.kind != "cuda":
        yield f"weights in few bits: turned back into numbers by bitsandbytes' code for {machine.kind} at each product"


def _optimizer(run: Run, machine: Machine) -> Iterator[str]:
    kind = run.optimizer.kind
    if kind.startswith("paged") and not has_host_memory(machine.kind):
        yield f"optimizer: the states of {kind} are not paged; there is no other memory than the host's"
    if run.train.fp16 and kind.startswith("adamw_torch"):
        yield "optimizer: its step is not fused, as loss scaling may leave one out"


def _memory(run: Run, machine: Machine) -> Iterator[str]:
    if machine.kind == "cpu" or has_host_memory(machine.kind):
        return
    yield f"batches: copied to {machine.kind} from memory that is not pinned, so a step waits for its batch"
    if run.train.gradient_checkpointing == "auto":
        yield f"activations: never offloaded to host memory, which is the same on {machine.kind}"
