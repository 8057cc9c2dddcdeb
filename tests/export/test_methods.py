"""Each kind of adapter, exported whole: its tensors against PEFT's own merge, its logits against base and adapter.

Tolerance 1e-6 on weights below 1: the same fp32 products summed in another order.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from hone.adapters.apply import attach, save_trained
from hone.config.adapter import Lora, Oft
from tests.export.whole import logits, merged_by_peft, run_export, tuned_logits
from tests.runs import largest_difference, weights_of

ROWS, WHOLE = "rows at a time", "in memory"


def check(base: Path, adapters: list[Path], out: Path, method: str) -> None:
    report = run_export(base, adapters, out)
    assert report.parity.passed and method in report.method
    assert largest_difference(weights_of(out), merged_by_peft(base, adapters)) < 1e-6


METHODS = {
    "lora": ({}, ROWS),
    "rslora": ({"use_rslora": True, "r": 3}, ROWS),
    "dora": ({"use_dora": True}, WHOLE),
    "dora and whole modules": ({"use_dora": True, "target_modules": ["q_proj"], "modules_to_save": ["norm"]}, WHOLE),
    "pissa as it was trained": ({"init_lora_weights": "pissa"}, WHOLE),
    "olora": ({"init_lora_weights": "olora"}, WHOLE),
    "whole modules": ({"target_modules": ["v_proj"], "modules_to_save": ["lm_head", "embed_tokens", "norm"]}, ROWS),
    "biases": ({"bias": "all"}, ROWS),
    "biases of the adapted": ({"bias": "lora_only", "target_modules": ["q_proj", "o_proj"]}, ROWS),
}


@pytest.fixture(scope="module")
def biased_dir(tmp_path_factory, tiny_model_dir, tiny_tokenizer) -> Path:
    """The tiny model with a bias in every attention projection."""
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("biased")
    LlamaForCausalLM(LlamaConfig.from_pretrained(tiny_model_dir, attention_bias=True)).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("settings", "method"), METHODS.values(), ids=METHODS)
def test_one_adapter(biased_dir, make_adapter, tmp_path, settings, method) -> None:
    adapter = make_adapter(biased_dir, "one", **settings)
    check(biased_dir, [adapter], tmp_path / "out", method)
    module = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert (logits(module) - tuned_logits(biased_dir, adapter)).abs().max() < 1e-5


@pytest.mark.parametrize("iterations", [-1, 4], ids=["exact", "fast"])
def test_pissa_converted_by_hone(biased_dir, tmp_path, iterations) -> None:
    torch.manual_seed(0)
    start = Lora(pissa_init=True, pissa_iter=iterations, lora_rank=4)
    module = attach(AutoModelForCausalLM.from_pretrained(biased_dir), start, base_name=str(biased_dir))
    for weight in module.parameters():
        if weight.requires_grad:
            weight.data += 0.05 * torch.randn_like(weight)
    save_trained(module, tmp_path / "one")
    check(biased_dir, [tmp_path / "one"], tmp_path / "out", ROWS)
    assert (logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out")) - logits(module)).abs().max() < 1e-5


def test_a_rotation(biased_dir, tmp_path) -> None:
    module = attach(AutoModelForCausalLM.from_pretrained(biased_dir), Oft(oft_block_size=8), base_name=str(biased_dir))
    for weight in module.parameters():
        if weight.requires_grad:
            weight.data += 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    save_trained(module, tmp_path / "one")
    check(biased_dir, [tmp_path / "one"], tmp_path / "out", WHOLE)
    assert (logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out")) - logits(module)).abs().max() < 1e-5


def test_several_adapters_of_different_kinds(biased_dir, make_adapter, tmp_path) -> None:
    """DoRA norms what the adapters before it made, so that the order counts."""
    first = make_adapter(biased_dir, "first", seed=1)
    second = make_adapter(biased_dir, "second", seed=2, use_dora=True, target_modules=["q_proj", "up_proj"])
    third = make_adapter(biased_dir, "third", seed=3, use_rslora=True, target_modules=["q_proj"], modules_to_save=["lm_head"])
    check(biased_dir, [first, second, third], tmp_path / "out", WHOLE)
    check(biased_dir, [third, first], tmp_path / "other", ROWS)
    other = merged_by_peft(biased_dir, [second, first, third])
    assert largest_difference(weights_of(tmp_path / "out"), other) > 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("settings", [{}, {"use_dora": True}], ids=["rows", "whole"])
def test_a_base_of_another_format_and_in_shards(biased_dir, make_adapter, tmp_path, tiny_tokenizer, dtype, settings) -> None:
    """Trained on one fp32 file, merged into shards of half width: each number is the fp32 merge, rounded once."""
    adapter = make_adapter(biased_dir, "one", **settings)
    base = tmp_path / "base"
    AutoModelForCausalLM.from_pretrained(biased_dir, dtype=dtype).save_pretrained(base, max_shard_size=30_000)
    tiny_tokenizer.save_pretrained(base)
    assert len(list(base.glob("model-*.safetensors"))) > 2
    report = run_export(base, [adapter], tmp_path / "out")
    assert report.parity.passed and report.dtype == str(dtype).removeprefix("torch.")
    rounded = {name: weight.to(dtype) for name, weight in merged_by_peft(base, [adapter]).items()}
    ours = weights_of(tmp_path / "out")
    assert {weight.dtype for weight in ours.values()} == {dtype}
    # A sum in another order may fall on the other side of a midpoint: one last place of numbers below 1.
    assert largest_difference(ours, rounded) <= torch.finfo(dtype).eps / 2
    assert sum(int((ours[name] != rounded[name]).sum()) for name in ours) <= 5
