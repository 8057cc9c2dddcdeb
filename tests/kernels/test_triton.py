"""The passes in Triton: in its interpreter against the references, and compiled for a GPU that need not be there.

Skipped where triton is not installed: it comes with torch's builds for GPUs, each of which asks for one version of it, so it
is no requirement of hone's own (286 MB to fetch, 1 GB on the disk); beside a build for CPUs, `pip install triton`. None of the
passes has run on a device yet; bench/gpu/fused_ops.py is the first to run them.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
PROJECT = Path(__file__).resolve().parents[2]


def test_in_the_interpreter_they_are_the_references():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(Path(__file__).with_name("interpreted.py"))]
    child = subprocess.run(command, cwd=PROJECT, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert child.returncode == 0, child.stdout[-4000:]


POINTERS = set("x weight y gradient of_x gate up out of_gate of_up q k q_out k_out cos sin".split())
SINGLE = {
    "rstd": "*fp32",
    "factor": "*fp32",
    "scales": "*fp32",
    "bits": "*fp8e4nv",
    "of_weight": "*fp32",
    "eps": "fp32",
    "offset": "fp32",
}
NORM = {"WEIGHTED": True, "BLOCK": 256}
ROPE = {"PAIRS": False, "Q_HEADS": 4, "K_HEADS": 1, "HALF": 32, "REST": 32}


@pytest.mark.parametrize(
    ("file", "kernel", "constants"),
    [
        ("rms_norm", "_forward", {**NORM, "ROUNDS": True}),
        ("rms_norm", "_backward", {**NORM, "TRAINED": True}),
        ("gated", "_forward", {"ACT": "gelu_tanh", "BLOCK": 128}),
        ("gated", "_backward", {"ACT": "silu", "BLOCK": 128}),
        ("gated", "_backward", {"ACT": "gelu", "BLOCK": 128}),
        ("rope", "_both", {**ROPE, "BACK": True}),
        ("float8", "_round", {"FACTORED": True, "BLOCK": 256}),
    ],
)
def test_kernels_compile_for_a_gpu(file, kernel, constants):
    """To machine code of compute capability 9.0: the interpreter minds neither types nor shapes as the compiler does."""
    assert compiled(file, kernel, constants)


@pytest.mark.parametrize(
    ("file", "kernel", "constants", "warps"),
    [
        ("rms_norm", "_forward", {"WEIGHTED": True, "ROUNDS": True, "BLOCK": 16384}, 32),
        ("rms_norm", "_backward", {"WEIGHTED": True, "TRAINED": True, "BLOCK": 8192}, 16),
        ("gated", "_backward", {"ACT": "gelu_tanh", "BLOCK": 1024}, 4),
        ("float8", "_round", {"FACTORED": True, "BLOCK": 16384}, 32),
        ("rope", "_both", {"BACK": True, "PAIRS": False, "Q_HEADS": 32, "K_HEADS": 8, "HALF": 64, "REST": 0}, 4),
        ("rope", "_both", {"BACK": True, "PAIRS": True, "Q_HEADS": 128, "K_HEADS": 128, "HALF": 64, "REST": 0}, 16),
    ],
)
def test_registers_suffice_at_the_sizes_of_large_models(file, kernel, constants, warps, tmp_path):
    """With the warps that the launchers take, a thread keeps no more than a few numbers in memory; it was thousands of bytes."""
    module = importlib.import_module(f"hone.kernels.gpu.{file}")
    sizes = {"rms_norm": lambda: constants["BLOCK"], "rope": lambda: constants["Q_HEADS"] * constants["HALF"]}
    assert file not in sizes or module._warps(sizes[file]()) == warps
    (tmp_path / "code").write_bytes(compiled(file, kernel, constants, num_warps=warps))
    tool = Path(importlib.import_module("triton").__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    told = subprocess.run([tool, "-res-usage", tmp_path / "code"], capture_output=True, text=True, check=True).stdout
    assert int(told.partition("STACK:")[2].split()[0]) <= 64, told


def compiled(file: str, kernel: str, constants: dict[str, object], **options: int) -> bytes:
    """The machine code of a kernel whose tensors are bfloat16 and begin at multiples of 16 bytes, as torch's do."""
    compiler = pytest.importorskip("triton.compiler")
    target = importlib.import_module("triton.backends.compiler").GPUTarget("cuda", 90, 32)
    function = getattr(importlib.import_module(f"hone.kernels.gpu.{file}"), kernel)
    names = function.arg_names
    kinds = {name: SINGLE.get(name, "*bf16" if name in POINTERS else "i32") for name in names}
    signature = {name: "constexpr" if name in constants else kind for name, kind in kinds.items()}
    whole = {(place,): [["tt.divisibility", 16]] for place, name in enumerate(names) if signature[name][0] in "*i"}
    source = compiler.ASTSource(function, signature, {(names.index(name),): value for name, value in constants.items()}, whole)
    return importlib.import_module("triton").compile(source, target=target, options=options).asm["cubin"]
