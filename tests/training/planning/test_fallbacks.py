"""What a run does instead on hardware that lacks something: facts of devices that are not here, and the lines they lead to."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig

from hone.config import load
from hone.config.model import ModelConfig
from hone.config.run import Run
from hone.errors import ModelError, RunError
from hone.kernels.machine import Machine, machine_of
from hone.models import attention
from hone.models.attention import choose_attention
from hone.training.planning.fallbacks import fallbacks, require_precision, require_states
from hone.training.planning.precision import settled

ALL = frozenset({"bitsandbytes", "triton"})
V100 = Machine("cuda", "Tesla V100-SXM2-16GB", "none", (7, 0), ALL)
T4 = Machine("cuda", "Tesla T4", "none", (7, 5), ALL)
A100 = Machine("cuda", "NVIDIA A100-SXM4-40GB", "products", (8, 0), ALL)
H100 = Machine("cuda", "NVIDIA H100 80GB HBM3", "products", (9, 0), ALL)
BARE_A100 = Machine("cuda", "NVIDIA A100-SXM4-40GB", "products", (8, 0))
MPS = Machine("mps", "Apple arm64 GPU", "emulated")
OLD_MPS = Machine("mps", "Apple arm64 GPU", "none")
AMX = Machine("cpu", "CPU with AMX", "products", packages=ALL)
OLD_CPU = Machine("cpu", "CPU with neither AVX512-BF16 nor AMX", "emulated", packages=ALL)


def asked(**settings: object) -> Run:
    words = {"model_name_or_path": "m", "dataset": "d", "output_dir": "o", **settings}
    return load([f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in words.items()], "train")


def parts(hardware: Machine, **settings: object) -> list[str]:
    """What falls back, by the first word of its line."""
    return [line.partition(":")[0] for line in fallbacks(settled(asked(**settings), hardware), hardware)]


@pytest.mark.parametrize(
    ("hardware", "format", "fall_back"),
    [
        (V100, False, ["attention", "norms, rotary codes, gated products"]),
        (T4, False, ["attention", "norms, rotary codes, gated products"]),
        (A100, True, ["norms, rotary codes, gated products"]),
        (H100, True, ["norms, rotary codes, gated products"]),
        (MPS, False, ["attention", "norms, rotary codes, gated products", "batches", "activations"]),
        (AMX, True, ["attention"]),
        (OLD_CPU, False, ["attention"]),
    ],
    ids=str,
)
def test_bf16_auto_takes_what_each_kind_multiplies_and_the_rest_falls_back(hardware, format, fall_back, capsys):
    assert settled(asked(bf16="auto"), hardware).train.bf16 is format
    said = capsys.readouterr().err
    assert f"bf16: auto: {'bfloat16' if format else 'float32'}" in said and hardware.name.removeprefix("CPU with ") in said
    assert parts(hardware, bf16="auto") == fall_back


@pytest.mark.parametrize("hardware", [V100, T4, OLD_MPS], ids=str)
@pytest.mark.parametrize("key", ["bf16", "pure_bf16"])
def test_bfloat16_is_refused_where_there_are_no_products_of_it(hardware, key):
    with pytest.raises(RunError, match=f"{key}: true: .*{hardware.name}.* has no products of bfloat16; write bf16: auto"):
        require_precision(asked(**{key: True}), hardware)


def test_float16_is_for_accelerators_and_tf32_for_ampere():
    with pytest.raises(RunError, match="fp16: true needs an accelerator"):
        require_precision(asked(fp16=True), AMX)
    require_precision(asked(fp16=True), V100)
    with pytest.raises(RunError, match=r"tf32: true needs an NVIDIA GPU of Ampere or newer, this run is on Tesla T4 .sm75"):
        require_precision(asked(tf32=True), T4)
    require_precision(asked(tf32=True), H100)


def test_float16_on_a_v100_has_no_fused_step_and_on_an_a100_is_told_of_bfloat16():
    assert parts(V100, fp16=True) == ["attention", "norms, rotary codes, gated products", "optimizer"]
    assert parts(A100, fp16=True)[0] == "products"


def test_bfloat16_that_is_emulated_is_told():
    assert parts(OLD_CPU, bf16=True) == ["products", "attention"]
    assert parts(AMX, bf16=True) == ["attention"]


def test_what_the_user_chose_is_no_fallback():
    assert parts(V100, flash_attn="sdpa", fused_kernels=False) == []
    assert parts(A100, bf16=True, fused_kernels=True) == []


def test_a_gpu_without_triton_is_told_so():
    (line,) = fallbacks(asked(bf16=True), BARE_A100)
    assert line.endswith("no Triton is installed")


def test_weights_in_few_bits_and_paged_states_fall_back_off_nvidia():
    assert parts(AMX, quantization_bit=4, optim="paged_adamw_8bit", flash_attn="sdpa") == ["weights in few bits", "optimizer"]
    assert parts(A100, bf16=True, quantization_bit=4, optim="paged_adamw_8bit", fused_kernels=False) == []


def test_float8_has_products_on_new_gpus_in_bfloat16_alone():
    fp8 = {"quantization_bit": 8, "quantization_method": "fp8", "flash_attn": "sdpa", "fused_kernels": False}
    assert parts(H100, bf16=True, **fp8) == []
    assert parts(A100, bf16=True, **fp8) == parts(H100, **fp8) == parts(AMX, **fp8) == ["weights in float8"]


@pytest.mark.parametrize("kind", ["adamw_8bit", "paged_adamw", "lion_8bit"])
def test_states_that_bitsandbytes_has_no_step_for_are_refused(kind):
    with pytest.raises(RunError, match=f"optim: {kind}: bitsandbytes has no such step on Apple arm64 GPU"):
        require_states(asked(optim=kind), MPS)
    require_states(asked(optim=kind), AMX)


def test_this_machine_is_known():
    found = machine_of(torch.device("cpu"))
    assert found.kind == "cpu" and found.capability == (0, 0) and str(found).startswith("CPU with ")
    assert found.bf16 == ("emulated" if "neither" in found.name else "products")


@pytest.mark.parametrize(("asked_for", "capability", "wanted"), [("fa2", (7, 5), "Ampere"), ("fa3", (8, 9), "Hopper")])
def test_the_packages_of_flash_attention_are_refused_on_older_gpus(asked_for, capability, wanted, monkeypatch):
    monkeypatch.setattr(attention, "find_spec", lambda name: name)
    monkeypatch.setattr(attention, "capability_of", lambda device: capability)
    model = ModelConfig(model_name_or_path="m", flash_attn=asked_for)
    with pytest.raises(ModelError, match=f"flash_attn: {asked_for} needs an NVIDIA GPU of {wanted} or newer"):
        choose_attention(model, LlamaConfig(), torch.device("cuda"))
