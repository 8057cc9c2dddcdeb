"""The merged checkpoint against PEFT's own merge, tensor by tensor; shards, tied weights, and adapters that do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from hone.config.model import ModelConfig
from hone.errors import ExportError, ModelError
from hone.export import merge as merge_module
from hone.export.lora import NeedsWholeModel, read_adapter
from hone.export.merge import merge
from hone.export.recipe import Recipe, plan_recipe
from hone.export.source import read_checkpoint
from hone.export.write import Slot, shards_of
from hone.models.shape import meta_model
from tests.export.whole import merged_by_peft
from tests.runs import largest_difference

GB = 10**9


def planned(base: Path, adapters: list[Path], *, dtype: str = "auto") -> Recipe:
    skeleton = meta_model(ModelConfig(model_name_or_path=str(base)))
    return plan_recipe(read_checkpoint(base), [read_adapter(folder) for folder in adapters], skeleton, dtype=dtype)


def merged(base: Path, adapters: list[Path], out: Path, *, dtype: str = "auto", shard_bytes: int = GB, **arguments) -> dict:
    """Merge and read back with safetensors' own loader, the config beside it untouched."""
    out.mkdir()
    recipe = planned(base, adapters, dtype=dtype)
    written = merge(recipe, out, shard_bytes=shard_bytes, **arguments)
    assert written.num_bytes == recipe.num_bytes
    return {name: tensor for file in written.files for name, tensor in load_file(out / file).items()}


@pytest.fixture(scope="module")
def tied_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama whose input and output embeddings are one tensor."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("tied")
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=96,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            tie_word_embeddings=True,
        )
    ).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"down_proj": 3}},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "norm"]},
        {"bias": "all"},
        {"target_modules": ["lm_head", "embed_tokens"]},
    ],
    ids=["plain", "patterns", "modules_to_save", "bias", "embeddings"],
)
def test_merge_equals_peft_to_the_bit(tiny_model_dir, make_adapter, tmp_path, settings) -> None:
    adapter = make_adapter(tiny_model_dir, "one", **settings)
    ours = merged(tiny_model_dir, [adapter], tmp_path / "out")
    assert largest_difference(ours, merged_by_peft(tiny_model_dir, [adapter])) == 0.0


def test_several_adapters_are_merged_in_order(tiny_model_dir, make_adapter, tmp_path) -> None:
    first = make_adapter(tiny_model_dir, "first", seed=1)
    second = make_adapter(tiny_model_dir, "second", seed=2, target_modules=["v_proj", "o_proj"], modules_to_save=["lm_head"])
    ours = merged(tiny_model_dir, [first, second], tmp_path / "out")
    assert largest_difference(ours, merged_by_peft(tiny_model_dir, [first, second])) == 0.0


def test_bfloat16_base_is_rounded_once_as_peft_does(tiny_model_dir, make_adapter, tmp_path) -> None:
    base = tmp_path / "half"
    AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.bfloat16).save_pretrained(base)
    adapter = make_adapter(base, "one")
    ours = merged(base, [adapter], tmp_path / "out")
    assert {tensor.dtype for tensor in ours.values()} == {torch.bfloat16}
    assert largest_difference(ours, merged_by_peft(base, [adapter], torch.bfloat16)) == 0.0


def test_small_blocks_give_the_same_numbers_and_bound_what_is_held(tiny_model_dir, make_adapter, tmp_path, monkeypatch) -> None:
    """Blocks may change the last bit of a product, so the tolerance is one rounding of fp32 on numbers below 1."""
    adapter = make_adapter(tiny_model_dir, "one")
    whole = merged(tiny_model_dir, [adapter], tmp_path / "whole")
    held: list[int] = []
    original = merge_module.read_rows

    def spy(tensor, start, end):
        rows = original(tensor, start, end)
        if tensor.file.parent == tiny_model_dir:
            held.append(rows.numel() * 4)
        return rows

    monkeypatch.setattr(merge_module, "read_rows", spy)
    small = merged(tiny_model_dir, [adapter], tmp_path / "small", block_bytes=1024)
    assert max(held) <= 1024 and len(held) > 100
    assert largest_difference(small, whole) <= 1.2e-7


def test_shards_carry_the_hub_s_names_and_an_index(tiny_model_dir, make_adapter, tmp_path) -> None:
    out = tmp_path / "out"
    merged(tiny_model_dir, [make_adapter(tiny_model_dir, "one")], out, shard_bytes=60_000)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    files = sorted(path.name for path in out.glob("*.safetensors"))
    assert len(files) >= 3
    assert files == [f"model-{k:05d}-of-{len(files):05d}.safetensors" for k in range(1, len(files) + 1)]
    assert sorted(set(index["weight_map"].values())) == files
    for name, file in index["weight_map"].items():
        with safe_open(out / file, framework="pt") as handle:
            assert name in set(handle.keys())
            assert handle.metadata() == {"format": "pt"}
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in merged_by_peft(tiny_model_dir, []).values())


def test_a_shard_never_exceeds_its_size_unless_one_tensor_does() -> None:
    slots = [Slot(str(k), (size,), "F32") for k, size in enumerate([10, 20, 100, 5, 5, 5])]
    assert [[slot.name for slot in shard] for shard in shards_of(slots, 120)] == [["0", "1"], ["2"], ["3", "4", "5"]]


@pytest.mark.parametrize("named", [["embed_tokens"], ["lm_head"], ["embed_tokens", "lm_head"]], ids=["input", "output", "both"])
def test_tied_embeddings_that_were_trained_apart_are_written_apart(tied_dir, make_adapter, tmp_path, named) -> None:
    adapter = make_adapter(tied_dir, "one", target_modules=["q_proj"], modules_to_save=named)
    recipe = planned(tied_dir, [adapter])
    assert recipe.untied
    ours = merged(tied_dir, [adapter], tmp_path / "out")
    brought = load_file(adapter / "adapter_model.safetensors")
    stored = load_file(tied_dir / "model.safetensors")["model.embed_tokens.weight"]
    for name, path in (("embed_tokens", "model.embed_tokens.weight"), ("lm_head", "lm_head.weight")):
        expected = brought[f"base_model.model.{path}"] if name in named else stored
        assert torch.equal(ours[path], expected)


def test_tied_embeddings_stay_one_tensor_where_nothing_touches_them(tied_dir, make_adapter, tmp_path) -> None:
    adapter = make_adapter(tied_dir, "one", target_modules=["q_proj"])
    ours = merged(tied_dir, [adapter], tmp_path / "out")
    assert "lm_head.weight" not in ours
    assert largest_difference(ours, merged_by_peft(tied_dir, [adapter])) == 0.0


def test_transposed_weights_of_gpt2(make_adapter, tmp_path) -> None:
    """GPT-2's Conv1D lies as [inputs, outputs]; the product of transposes may round its last bit otherwise."""
    torch.manual_seed(0)
    base = tmp_path / "gpt2"
    GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=16, n_layer=1, n_head=2, n_positions=32)).save_pretrained(base)
    adapter = make_adapter(base, "one", target_modules=["c_attn", "c_fc"], fan_in_fan_out=True)
    ours = merged(base, [adapter], tmp_path / "out", block_bytes=512)
    assert largest_difference(ours, merged_by_peft(base, [adapter])) <= 1.2e-7


def test_conversion_without_adapters(tiny_model_dir, tmp_path) -> None:
    ours = merged(tiny_model_dir, [], tmp_path / "out", dtype="BF16")
    for name, weight in merged_by_peft(tiny_model_dir, []).items():
        assert torch.equal(ours[name], weight.bfloat16())


def test_tensors_kept_in_another_format_stay_in_it(tiny_model_dir, tmp_path) -> None:
    base = tmp_path / "mixed"
    base.mkdir()
    (base / "config.json").write_text((tiny_model_dir / "config.json").read_text())
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(tiny_model_dir / "model.safetensors").items()}
    tensors["model.norm.weight"] = tensors["model.norm.weight"].float()
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    ours = merged(base, [], tmp_path / "out", dtype="F16")
    assert ours["model.norm.weight"].dtype == torch.float32
    assert ours["lm_head.weight"].dtype == torch.float16


def test_the_base_is_not_touched(tiny_model_dir, make_adapter, tmp_path) -> None:
    before = (tiny_model_dir / "model.safetensors").read_bytes()
    merged(tiny_model_dir, [make_adapter(tiny_model_dir, "one")], tmp_path / "out")
    assert (tiny_model_dir / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"init_lora_weights": "pissa"}, "pissa"),
    ],
    ids=["dora", "pissa"],
)
def test_what_cannot_be_streamed_says_why(tiny_model_dir, make_adapter, tmp_path, settings, reason) -> None:
    adapter = make_adapter(tiny_model_dir, "one", **settings)
    with pytest.raises(NeedsWholeModel, match=reason):
        merged(tiny_model_dir, [adapter], tmp_path / "out")


def refusal(base: Path, adapter: Path, tmp_path: Path) -> str:
    with pytest.raises((ExportError, ModelError)) as caught:
        merged(base, [adapter], tmp_path / "refused")
    return str(caught.value)


def test_adapter_of_another_base_is_refused(tiny_model_dir, tied_dir, make_adapter, tmp_path) -> None:
    said = refusal(tied_dir, make_adapter(tiny_model_dir, "one"), tmp_path)
    assert "another base" in said or "does not have" in said
    assert str(tiny_model_dir) in said


def test_adapter_with_more_layers_is_refused(tiny_model_dir, make_adapter, tmp_path) -> None:
    base = tmp_path / "short"
    config = LlamaConfig.from_pretrained(tiny_model_dir, num_hidden_layers=1)
    LlamaForCausalLM(config).save_pretrained(base)
    assert "model.layers.1" in refusal(base, make_adapter(tiny_model_dir, "one"), tmp_path)


def test_broken_adapters_are_refused(tiny_model_dir, make_adapter, tmp_path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "holds no adapter_config.json" in refusal(tiny_model_dir, empty, tmp_path)

    cut = make_adapter(tiny_model_dir, "cut")
    file = cut / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    (tmp_path / "refused").rmdir()
    assert "cannot be read as safetensors" in refusal(tiny_model_dir, cut, tmp_path)

    halved = make_adapter(tiny_model_dir, "halved")
    tensors = load_file(halved / "adapter_model.safetensors")
    tensors.pop(next(name for name in tensors if "lora_B" in name))
    save_file(tensors, halved / "adapter_model.safetensors")
    (tmp_path / "refused").rmdir()
    assert "without its lora_B" in refusal(tiny_model_dir, halved, tmp_path)


def test_quantized_base_is_refused(tiny_model_dir, make_adapter, tmp_path) -> None:
    base = tmp_path / "quantized"
    base.mkdir()
    config = json.loads((tiny_model_dir / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "bitsandbytes"}}))
    assert "original, unquantized model" in refusal(base, make_adapter(tiny_model_dir, "one"), tmp_path)


def test_numbers_that_overflow_are_refused(tiny_model_dir, make_adapter, tmp_path) -> None:
    adapter = make_adapter(tiny_model_dir, "one", lora_alpha=10**9)
    with pytest.raises(ExportError, match="not finite as F16"):
        merged(tiny_model_dir, [adapter], tmp_path / "out", dtype="F16")
