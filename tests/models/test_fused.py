"""When operations are fused: by default on a CPU, on a GPU where it is asked for, and never in a model that is only used."""

from __future__ import annotations

import pytest
import torch

from hone.config.model import ModelConfig
from hone.errors import ModelError
from hone.kernels.attach import OPERATIONS
from hone.models import fused
from hone.models.fused import fuse
from hone.models.load import load_model
from tests.families import tiny

CPU, CUDA, MPS = map(torch.device, ("cpu", "cuda", "mps"))


def is_fused(module: torch.nn.Module) -> bool:
    return any("forward" in vars(inner) for inner in module.modules())


@pytest.fixture
def asked(monkeypatch) -> list:
    """What `fuse` asks for on a machine that has Triton."""
    calls: list = []
    monkeypatch.setattr(fused, "has_triton", lambda: True)
    monkeypatch.setattr(fused, "attach", lambda module, operations, triton: calls.append((tuple(operations), triton)))
    return calls


def test_a_loaded_model_is_fused_where_it_is_trained(tmp_path):
    tiny("llama").save_pretrained(tmp_path)
    model = ModelConfig(model_name_or_path=str(tmp_path))
    kind = {"dtype": torch.float32, "device": CPU}
    assert is_fused(load_model(model, for_training=True, **kind))
    assert is_fused(load_model(model, for_training=True, fused=True, **kind))
    assert not is_fused(load_model(model, for_training=True, fused=False, **kind))
    assert not is_fused(load_model(model, for_training=False, **kind))


@pytest.mark.parametrize(
    ("setting", "device", "triton"),
    [("auto", CPU, False), (True, CPU, False), (True, MPS, False), (True, CUDA, True)],
)
def test_where_it_pays_or_is_asked_for(asked, setting, device, triton):
    fuse(tiny("llama"), setting, device)
    assert asked == [(OPERATIONS, triton)]


@pytest.mark.parametrize(("setting", "device"), [("auto", CUDA), ("auto", MPS), (False, CUDA), (False, CPU)])
def test_kernels_that_never_ran_on_a_device_are_not_used_unasked(asked, setting, device):
    fuse(tiny("llama"), setting, device)
    assert asked == []


def test_on_a_gpu_triton_must_be_there(monkeypatch):
    monkeypatch.setattr(fused, "has_triton", lambda: False)
    with pytest.raises(ModelError, match="triton"):
        fuse(tiny("llama"), True, CUDA)


def test_experts_are_multiplied_in_groups_by_transformers_itself():
    """Its own choice is as fast as any and keeps least (bench/fused_ops.py experts), so hone makes none."""
    assert tiny("qwen3_moe").config._experts_implementation == "grouped_mm"
