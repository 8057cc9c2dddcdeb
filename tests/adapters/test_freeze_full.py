"""Freeze and full: which weights learn, what is saved, what is refused."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from hone.adapters.apply import attach, load_trained, save_trained, trainable_report
from hone.config.adapter import Freeze, Full
from hone.errors import ModelError
from tests.families import tiny

IDS = torch.tensor([[5, 6, 7, 8]])


def base(folder: Path, dtype=torch.float32) -> nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)


def learns(module: nn.Module) -> set[str]:
    return {name for name, weight in module.named_parameters() if weight.requires_grad}


def test_the_last_layers_or_the_first_learn(tiny_model_dir):
    last = learns(attach(base(tiny_model_dir), Freeze(freeze_trainable_layers=1), base_name="tiny"))
    first = learns(attach(base(tiny_model_dir), Freeze(freeze_trainable_layers=-1), base_name="tiny"))
    assert {name.split(".")[2] for name in last} == {"1"}
    assert {name.split(".")[2] for name in first} == {"0"}
    assert len(last) == len(first) == 9


def test_named_and_extra_modules_learn(tiny_model_dir):
    adapter = Freeze(freeze_trainable_layers=1, freeze_trainable_modules=("mlp",), freeze_extra_modules=("lm_head", "norm"))
    names = learns(attach(base(tiny_model_dir), adapter, base_name="tiny"))
    layer = {f"model.layers.1.mlp.{part}_proj.weight" for part in ("gate", "up", "down")}
    assert names == layer | {"lm_head.weight", "model.norm.weight"}


def test_full_trains_every_weight_in_fp32_unless_asked_otherwise(tiny_model_dir):
    module = attach(base(tiny_model_dir, torch.bfloat16), Full(), base_name="tiny")
    report = trainable_report(module)
    assert report.num_trained == report.num_weights
    assert report.dtypes == ("float32",)
    kept = attach(base(tiny_model_dir, torch.bfloat16), Full(), base_name="tiny", trained_dtype=torch.bfloat16)
    assert trainable_report(kept).dtypes == ("bfloat16",)


@pytest.mark.parametrize("adapter", [Full(), Freeze(freeze_trainable_layers=1)], ids=["full", "freeze"])
def test_a_whole_model_is_saved_and_comes_back(tiny_model_dir, tmp_path, adapter):
    module = attach(base(tiny_model_dir), adapter, base_name="tiny")
    module.config.use_cache = False
    for weight in module.parameters():
        if weight.requires_grad:
            weight.data += 0.1
    mask = os.umask(0o022)
    try:
        save_trained(module, tmp_path / "out")
    finally:
        os.umask(mask)
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o644 for path in (tmp_path / "out").iterdir())
    assert module.config.use_cache is False
    reloaded = base(tmp_path / "out")
    assert reloaded.config.use_cache
    assert torch.equal(reloaded(IDS).logits, module(IDS).logits)
    fresh = attach(base(tiny_model_dir), adapter, base_name="tiny")
    load_trained(fresh, tmp_path / "out")
    assert torch.equal(fresh(IDS).logits, module(IDS).logits)


def test_tied_weights_and_fused_experts_come_back(tmp_path):
    for family in ("gemma2", "qwen3_moe"):
        module = attach(tiny(family, tie_word_embeddings=True), Full(), base_name=family)
        for weight in module.parameters():
            weight.data += 0.1 * torch.rand_like(weight)
        save_trained(module, tmp_path / family)
        fresh = attach(tiny(family, tie_word_embeddings=True), Full(), base_name=family)
        load_trained(fresh, tmp_path / family)
        assert torch.equal(fresh(IDS).logits, module(IDS).logits), family


def test_a_file_that_does_not_fit_is_refused(tiny_model_dir, tmp_path):
    module = attach(base(tiny_model_dir), Full(), base_name="tiny")
    with pytest.raises(ModelError, match=r"holds no model\.safetensors"):
        load_trained(module, tmp_path)
    module.config.num_hidden_layers = 1
    short = type(module)(module.config)
    save_trained(short, tmp_path / "short")
    with pytest.raises(ModelError, match="lacks 9 weights"):
        load_trained(module, tmp_path / "short")


def test_mistakes_are_named(tiny_model_dir):
    def message(adapter: Freeze) -> str:
        with pytest.raises(ModelError) as caught:
            attach(base(tiny_model_dir), adapter, base_name="the-base")
        return str(caught.value)

    assert "the-base has 2 layers: write 1 to 2" in message(Freeze(freeze_trainable_layers=3))
    assert "write 1 to 2" in message(Freeze(freeze_trainable_layers=0))
    assert 'no module is called "mpl" (did you mean "mlp"?)' in message(Freeze(freeze_trainable_modules=("mpl",)))
    assert 'freeze_extra_modules: no module is called "lmhead" (did you mean "lm_head"?)' in message(
        Freeze(freeze_extra_modules=("lmhead",))
    )


@pytest.mark.parametrize("adapter", [Full(), Freeze()], ids=["full", "freeze"])
def test_for_use_nothing_learns(tiny_model_dir, adapter):
    module = attach(base(tiny_model_dir), adapter, base_name="tiny", trainable=False)
    assert not learns(module)
    assert not module.training


def test_weights_in_few_bits_do_not_learn(tiny_model_dir):
    module = base(tiny_model_dir)
    module.lm_head.weight = nn.Parameter(torch.zeros(4, 4, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(ModelError, match="write finetuning_type: lora"):
        attach(module, Full(), base_name="tiny")
