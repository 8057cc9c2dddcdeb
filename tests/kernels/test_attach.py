"""Fused operations in a model: what is replaced, what is left as it is, and what must hold afterwards.

Every catalogued architecture is tried in tests/models/test_architectures.py.
"""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn import functional

from hone.kernels.attach import OPERATIONS, attach
from hone.models.checkpointing import recompute_activations
from tests.architectures import gradients
from tests.families import tiny


class Plain(nn.Module):
    """A norm of somebody's own, which multiplies by `factor` too."""

    def __init__(self, factor: float = 1.0):
        super().__init__()
        self.weight, self.eps, self.factor = nn.Parameter(torch.rand(8)), 1e-5, factor

    def forward(self, x):
        return self.factor * (self.weight * functional.rms_norm(x.float(), (8,), eps=self.eps).to(x.dtype))


class Feed(nn.Module):
    """A gated feed-forward layer that drops some of its product."""

    def __init__(self, drop: float, act: nn.Module):
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = nn.Linear(8, 4), nn.Linear(8, 4), nn.Linear(4, 8)
        self.act_fn, self.drop = act, drop

    def forward(self, x):
        return self.down_proj(functional.dropout(self.act_fn(self.gate_proj(x)) * self.up_proj(x), self.drop, self.training))


def loss_of(module: nn.Module) -> torch.Tensor:
    ids = torch.arange(3, 14)[None]
    return functional.cross_entropy(module(input_ids=ids, use_cache=False).logits[0, :-1].float(), ids[0, 1:])


def both(module: nn.Module) -> tuple[nn.Module, nn.Module]:
    """The module and a copy of it that is fused."""
    twin = copy.deepcopy(module)
    assert set(attach(twin, OPERATIONS).fused) == set(OPERATIONS)
    return module, twin


def assert_same_step(plain: nn.Module, fused: nn.Module, *, tolerance: float = 1e-5) -> None:
    theirs, ours = gradients(plain, loss_of(plain)), gradients(fused, loss_of(fused))
    assert set(theirs) == set(ours)
    largest = max(slope.abs().max() for slope in theirs.values())
    assert max((ours[name] - slope).abs().max() for name, slope in theirs.items()) < tolerance * largest


def test_a_module_that_computes_something_else_is_left_as_it_is():
    """By a factor, an activation that is not known, or dropout, which would be lost."""
    feeds = [Feed(0.0, nn.SiLU()), Feed(0.1, nn.SiLU()), Feed(0.0, nn.Mish())]
    model = nn.ModuleList([Plain(), Plain(1.5), *feeds, nn.LayerNorm(8)]).eval()
    attached = attach(model, OPERATIONS)
    assert attached.fused == {"rms_norm": 1, "gated": 1}
    assert attached.left == {"Plain": 1, "Feed": 2}
    assert ["forward" in vars(one) for one in model] == [True, False, True, False, False, False]


def test_only_what_is_asked_for_is_replaced_and_a_forward_of_somebody_elses_stays():
    model = tiny("llama")
    own = model.model.layers[0].mlp.forward = lambda x: 0 * x
    assert attach(model, ["gated"]).fused == {"gated": 1}
    assert model.model.layers[0].mlp.forward is own


def test_names_and_random_numbers_stay_and_a_copy_has_weights_of_its_own():
    plain = tiny("qwen3")
    torch.manual_seed(3)
    wanted = torch.rand(1)
    torch.manual_seed(3)
    plain, fused = both(plain)
    assert torch.rand(1) == wanted
    assert [*plain.state_dict()] == [*fused.state_dict()]
    classes = [[(name, type(one)) for name, one in module.named_modules()] for module in (plain, fused)]
    assert classes[0] == classes[1]
    twin = copy.deepcopy(fused)
    with torch.no_grad():
        for weight in fused.parameters():
            weight.zero_()
    assert_same_step(plain, twin)


def test_in_a_whole_model_with_activations_recomputed():
    plain, fused = both(tiny("llama").train())
    for module in (plain, fused):
        recompute_activations(module)
    assert_same_step(plain, fused)


def test_lora_on_the_layers_of_a_gated_product_and_frozen_norms():
    """No gradient of a frozen weight is formed, and the adapter's are the same."""
    torch.manual_seed(0)
    tuned = get_peft_model(tiny("llama"), LoraConfig(r=2, target_modules=["gate_proj", "up_proj", "down_proj", "q_proj"]))
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.1)
    plain, fused = both(tuned)
    assert_same_step(plain, fused)
    assert all("lora_" in name for name in gradients(fused, loss_of(fused)))


def test_a_norm_that_is_trained_beside_an_adapter():
    tuned = get_peft_model(tiny("llama"), LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["norm"]))
    assert_same_step(*both(tuned))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_under_autocast_types_are_the_familys(dtype):
    """fp32 weights, or bf16 weights with fp32 norms, as a frozen base with trained norms has; bf16 rounds in another order."""
    model = tiny("llama").to(dtype)
    for name, weight in model.named_parameters():
        if "norm" in name:
            weight.data = weight.data.float()
    plain, fused = both(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert plain.model.norm(torch.ones(1, 32, dtype=dtype)).dtype == fused.model.norm(torch.ones(1, 32, dtype=dtype)).dtype
        assert_same_step(plain, fused, tolerance=0.05)
