"""Optimizers step as their originals do, over the groups that transformers.Trainer makes."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.optimization import Adafactor as TheirAdafactor
from transformers.trainer_pt_utils import get_parameter_names

from hone.config.optimizer import OptimizerConfig, OptimizerKind
from hone.errors import ConfigError, ModelError
from hone.optim.adafactor import Adafactor
from hone.optim.build import build_optimizer
from hone.optim.groups import parameter_groups

TRAINER_PATTERNS = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]


class Odd(nn.Module):
    """Names and kinds that the rule must tell apart: a norm by class only, by name only, a normaliser that is neither."""

    def __init__(self):
        super().__init__()
        self.ln_1 = nn.LayerNorm(4)
        self.q_norm = nn.Linear(4, 4)
        self.normal = nn.Linear(4, 4)
        self.norm = nn.Sequential(nn.Linear(4, 4))
        self.scale = nn.Parameter(torch.ones(4))


def llama() -> LlamaForCausalLM:
    config = LlamaConfig(vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    config.attention_bias = True
    return LlamaForCausalLM(config)


@pytest.mark.parametrize("module", [llama(), Odd()], ids=["llama", "odd"])
def test_weight_decay_goes_where_the_trainer_puts_it(module):
    wanted = set(get_parameter_names(module, [nn.LayerNorm], TRAINER_PATTERNS))
    names = {id(weight): name for name, weight in module.named_parameters()}
    groups = parameter_groups(module, OptimizerConfig(weight_decay=0.1))
    got = {names[id(weight)] for group in groups if group["weight_decay"] for weight in group["params"]}
    assert got == wanted
    assert sum(len(group["params"]) for group in groups) == len(names)


def test_frozen_weights_are_left_out():
    module = Odd()
    module.normal.requires_grad_(False)
    groups = parameter_groups(module, OptimizerConfig())
    assert sum(len(group["params"]) for group in groups) == len(list(module.parameters())) - 2


@pytest.mark.parametrize("kind", get_args(OptimizerKind))
def test_every_kind_lowers_a_loss(kind):
    torch.manual_seed(0)
    if "8bit" in kind or "paged" in kind or "lion" in kind:
        pytest.importorskip("bitsandbytes")
    layer, inputs = nn.Linear(64, 64), torch.randn(32, 64)
    optimizer = build_optimizer(layer, OptimizerConfig(kind=kind, learning_rate=1e-3))
    losses = []
    for _ in range(8):
        loss = (layer(inputs) - 1).square().mean()
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0]


def test_adamw_first_step_by_hand():
    """The first step of Adam moves by the rate against the sign of the gradient; AdamW shrinks by rate * decay before."""
    weight = nn.Parameter(torch.tensor([[2.0]]))
    module = nn.Module()
    module.register_parameter("weight", weight)
    optimizer = build_optimizer(module, OptimizerConfig(learning_rate=0.1, weight_decay=0.5))
    weight.grad = torch.tensor([[3.0]])
    optimizer.step()
    assert float(weight) == pytest.approx(2.0 * (1 - 0.05) - 0.1, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_adafactor_steps_as_transformers_does(dtype):
    """fp32 to 1e-6: lerp and mul-add round differently; bf16 weights may then fall on neighbouring numbers, 2**-8 apart."""
    torch.manual_seed(1)
    start = [torch.randn(6, 5).to(dtype), torch.randn(7).to(dtype), torch.randn(2, 3, 4).to(dtype)]
    ours, theirs = ([nn.Parameter(tensor.clone()) for tensor in start] for _ in range(2))
    mine = Adafactor(ours, lr=0.01, weight_decay=0.1)
    other = TheirAdafactor(theirs, lr=0.01, weight_decay=0.1, scale_parameter=False, relative_step=False)
    for _ in range(5):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        mine.step(), other.step()
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, rtol=1e-6 if dtype == torch.float32 else 2**-7, atol=1e-6)


def test_loraplus_trains_b_faster():
    module = nn.Module()
    for name, shape in {"lora_A": (2, 4), "lora_B": (4, 2), "lora_embedding_B": (4, 2), "plain": (4, 4)}.items():
        module.register_parameter(name, nn.Parameter(torch.zeros(shape)))
    config = OptimizerConfig(learning_rate=1e-3, loraplus_lr_ratio=16, loraplus_lr_embedding=1e-5)
    rates = {id(weight): group["lr"] for group in parameter_groups(module, config) for weight in group["params"]}
    by_name = {name: rates[id(weight)] for name, weight in module.named_parameters()}
    assert by_name == {"lora_A": 1e-3, "lora_B": pytest.approx(0.016), "lora_embedding_B": 1e-5, "plain": 1e-3}


def test_mistakes_are_named():
    with pytest.raises(ModelError, match="needs finetuning_type: lora"):
        build_optimizer(nn.Linear(2, 2), OptimizerConfig(loraplus_lr_ratio=16))
    with pytest.raises(ConfigError, match='did you mean "adamw_torch"'):
        build_optimizer(
            nn.Linear(2, 2), OptimizerConfig.model_construct(**{**OptimizerConfig().model_dump(), "kind": "adamw_torh"})
        )


def test_adamw_is_fused_where_it_may_be_and_steps_as_the_plain_one_does():
    """Another order of the same fp32 operations: 2 units in the last place of weights near 1."""
    fused, plain = (llama() for _ in range(2))
    plain.load_state_dict(fused.state_dict())
    settings = OptimizerConfig(kind="adamw_torch", weight_decay=0.1)
    optimizers = [build_optimizer(fused, settings), build_optimizer(plain, settings, skips=True)]
    assert [one.defaults["fused"] for one in optimizers] == [True, None]
    for module, optimizer in zip((fused, plain), optimizers, strict=True):
        torch.manual_seed(1)
        for _ in range(3):
            for weight in module.parameters():
                weight.grad = torch.randn_like(weight)
            optimizer.step()
    for one, other in zip(fused.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2.4e-7)
