"""The pure tensors of an adapter give the same merged weights as peft, or say why they cannot.

Tolerance 1e-6: one fp32 product of rank 4 or 8, scaled before or after.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from hone.adapters.apply import attach, save_trained
from hone.adapters.delta import Pair, lora_delta
from hone.config.adapter import Lora
from hone.errors import ModelError


def base(folder: Path):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def shake(module):
    torch.manual_seed(3)
    for weight in module.parameters():
        if weight.requires_grad:
            weight.data += 0.05 * torch.randn_like(weight)
    return module


def assert_merges_as_peft(model_dir: Path, folder: Path) -> None:
    delta, weights = lora_delta(folder), base(model_dir).state_dict()
    assert not delta.needs_full_path
    for name, pair in delta.pairs.items():
        weights[name] = pair.add_to(weights[name])
    weights.update(delta.whole)
    merged = PeftModel.from_pretrained(base(model_dir), folder).merge_and_unload().state_dict()
    for name, tensor in merged.items():
        assert torch.allclose(weights[name], tensor, atol=1e-6), name


@pytest.mark.parametrize(
    "adapter",
    [
        Lora(),
        Lora(use_rslora=True, lora_rank=4),
        Lora(pissa_init=True),
        Lora(lora_target=("embed_tokens", "q_proj")),
        Lora(additional_target=("lm_head",)),
    ],
    ids=["plain", "rslora", "pissa", "embedding", "whole head"],
)
def test_merging_weight_by_weight_equals_peft(tiny_model_dir, tmp_path, adapter):
    save_trained(shake(attach(base(tiny_model_dir), adapter, base_name="tiny")), tmp_path / "a")
    assert lora_delta(tmp_path / "a").base_name == "tiny"
    assert_merges_as_peft(tiny_model_dir, tmp_path / "a")


def test_ranks_and_scales_of_single_layers(tiny_model_dir, tmp_path):
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], rank_pattern={"q_proj": 2}, alpha_pattern={"v_proj": 3}
    )
    shake(get_peft_model(base(tiny_model_dir), config)).save_pretrained(tmp_path / "a")
    pairs = lora_delta(tmp_path / "a").pairs
    assert pairs["model.layers.0.self_attn.q_proj.weight"].scale == 8 / 2
    assert pairs["model.layers.1.self_attn.v_proj.weight"].scale == 3 / 4
    assert_merges_as_peft(tiny_model_dir, tmp_path / "a")


def test_layers_that_hold_their_weight_turned(tmp_path):
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=4)).save_pretrained(tmp_path / "gpt2")
    save_trained(shake(attach(base(tmp_path / "gpt2"), Lora(), base_name="gpt2")), tmp_path / "a")
    assert_merges_as_peft(tmp_path / "gpt2", tmp_path / "a")


def test_rows_can_be_merged_block_by_block():
    """[[1], [2], [3]] @ [[10, 20]] * 0.5 = [[5, 10], [10, 20], [15, 30]]."""
    pair = Pair(torch.tensor([[10.0, 20.0]]), torch.tensor([[1.0], [2.0], [3.0]]), 0.5)
    weight = torch.ones(3, 2)
    assert pair.add_to(weight).tolist() == [[6, 11], [11, 21], [16, 31]]
    assert pair.add_to(weight[1:], start=1).tolist() == [[11, 21], [16, 31]]
    assert pair.add_to(weight.to(torch.bfloat16)).dtype == torch.bfloat16


def test_adapters_that_mean_more_than_a_sum_say_so(tiny_model_dir, tmp_path):
    save_trained(attach(base(tiny_model_dir), Lora(use_dora=True), base_name="tiny"), tmp_path / "a")
    assert "DoRA" in lora_delta(tmp_path / "a").needs_full_path
    path = tmp_path / "a" / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "use_dora": False}))
    assert "neither an A nor a B" in lora_delta(tmp_path / "a").needs_full_path
    path.write_text(json.dumps({**config, "use_dora": False, "init_lora_weights": "pissa_niter_4"}))
    assert "changed the base" in lora_delta(tmp_path / "a").needs_full_path
    with pytest.raises(ModelError, match="does not exist"):
        lora_delta(tmp_path / "nowhere")
