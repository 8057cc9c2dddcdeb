"""OFT adapters: what a rotation is, and that it is saved, continued, merged and refused as every adapter.

Tolerance 1e-5 where the same fp32 products are summed in another order, exact where they are not.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from hone.adapters.apply import attach, load_trained, save_trained, trainable_report, without_adapter
from hone.config.adapter import Adapter, Lora, Oft
from hone.errors import ModelError
from tests.adapters.test_lora import base, logits, message, tuned
from tests.families import tiny

KINDS = {
    "blocks": Oft(oft_block_size=8),
    "rank": Oft(oft_rank=4, oft_block_size=0),
    "named": Oft(oft_target=("q_proj", "down_proj"), oft_block_size=16),
    "whole modules": Oft(oft_block_size=8, additional_target=("embed_tokens",)),
}


def used(folder: Path, names: tuple[str, ...], kind: type[Adapter] = Oft, **settings: bool) -> nn.Module:
    return attach(base(folder), kind(adapter_name_or_path=names), base_name=str(folder), **settings)


def test_a_block_is_turned_as_cayley_says(tiny_model_dir):
    """Q = q [[0, 1], [-1, 0]]: Q Q = -q^2 I, so I + 2Q + 2QQ + 2QQQ + QQQQ is (1 - 2q^2 + q^4) I + (2 - 2q^2) Q.

    Near the exact turn by 2 arctan q: cos 0.9802, sin 0.198 at q = 0.1.
    """
    module = attach(base(tiny_model_dir), Oft(oft_block_size=2, oft_target=("q_proj",)), base_name="tiny")
    layer = module.base_model.model.model.layers[0].self_attn.q_proj
    x, q = torch.randn(3, 32), 0.1
    torch.testing.assert_close(layer(x), layer.base_layer(x), atol=0, rtol=0)
    layer.oft_R["default"].weight.data.fill_(q)
    cos, sin = 1 - 2 * q**2 + q**4, 2 * q - 2 * q**3
    turned = torch.stack([cos * x[:, 0::2] - sin * x[:, 1::2], sin * x[:, 0::2] + cos * x[:, 1::2]], -1).flatten(1)
    torch.testing.assert_close(layer(x), layer.base_layer(turned), atol=1e-6, rtol=1e-5)
    assert (round(cos, 4), round(sin, 3)) == (0.9801, 0.198)
    assert trainable_report(module).num_trained == 2 * 16, "two layers, 16 blocks of one angle each"


@pytest.mark.parametrize("adapter", KINDS.values(), ids=KINDS)
def test_what_is_trained_is_what_is_used(tiny_model_dir, tmp_path, adapter):
    """Saved, then used merged, continued, resumed and by plain peft: the same logits on the untouched base."""
    module = tuned(tiny_model_dir, adapter)
    wanted = logits(module)
    assert (wanted - logits(base(tiny_model_dir))).abs().max() > 0.005
    save_trained(module, tmp_path / "a")
    names = (str(tmp_path / "a"),)
    for kind in (Oft, Lora):  # what is only used says itself what it is
        merged = used(tiny_model_dir, names, kind, trainable=False)
        assert type(merged) is LlamaForCausalLM and torch.allclose(logits(merged), wanted, atol=1e-5)
    continued = used(tiny_model_dir, names)
    assert torch.allclose(logits(continued), wanted, atol=1e-5) and trainable_report(continued).num_trained > 0
    assert torch.allclose(logits(PeftModel.from_pretrained(base(tiny_model_dir), names[0])), wanted, atol=1e-5)
    resumed = tuned(tiny_model_dir, adapter, seed=7)
    load_trained(resumed, tmp_path / "a")
    assert torch.allclose(logits(resumed), wanted, atol=1e-5)
    with without_adapter(resumed):
        assert torch.equal(logits(resumed), logits(base(tiny_model_dir)))


def test_adapters_of_both_kinds_are_merged_in_their_order(tiny_model_dir, tmp_path):
    """A rotation of LoRA's sum is not the sum beside the rotation: the second adapter was trained on the first one's model."""
    save_trained(tuned(tiny_model_dir, Lora(), seed=1), tmp_path / "one")
    first = used(tiny_model_dir, (str(tmp_path / "one"),), trainable=False)
    first.save_pretrained(tmp_path / "first")
    second = tuned(tmp_path / "first", Oft(oft_block_size=8), seed=2)
    save_trained(second, tmp_path / "two")
    names = (str(tmp_path / "one"), str(tmp_path / "two"))
    assert torch.allclose(logits(used(tiny_model_dir, names, trainable=False)), logits(second), atol=1e-5)
    assert torch.allclose(logits(used(tiny_model_dir, names)), logits(second), atol=1e-5)
    assert (logits(used(tiny_model_dir, names[::-1], trainable=False)) - logits(second)).abs().max() > 1e-4
    said = message(tiny_model_dir, Lora(adapter_name_or_path=names))
    assert "two was trained with finetuning_type: oft; write that to continue it, or create_new_adapter: true" in said


def test_a_base_in_few_bits_is_turned_by_several_in_their_order(tmp_path):
    """As merged into the numbers that its bits stand for."""
    functional = pytest.importorskip("bitsandbytes.functional")
    from hone.config.model import ModelConfig, Quantization
    from hone.models.load import load_model

    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=64, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    model = ModelConfig(model_name_or_path=str(tmp_path / "base"), quantization=Quantization())

    def quantized() -> nn.Module:
        return load_model(model, dtype=torch.float32, device=torch.device("cpu"), for_training=True)

    for number in (1, 2):
        save_trained(tuned(tmp_path / "base", Oft(), seed=number), tmp_path / str(number))
    names = (str(tmp_path / "1"), str(tmp_path / "2"))
    plain = base(tmp_path / "base")
    for path, layer in quantized().named_modules():
        if hasattr(getattr(layer, "weight", None), "quant_state"):
            plain.get_submodule(path).weight.data = functional.dequantize_4bit(
                layer.weight.data, layer.weight.quant_state
            ).float()
    plain.save_pretrained(tmp_path / "plain")
    wanted = logits(used(tmp_path / "plain", names, trainable=False))
    stack = attach(quantized(), Oft(adapter_name_or_path=names), base_name="base", trainable=False)
    assert torch.allclose(logits(stack), wanted, atol=1e-4)
    save_trained(tuned(tmp_path / "base", Lora()), tmp_path / "3")
    with pytest.raises(ModelError, match="LoRA and of OFT do not stand together"):
        attach(quantized(), Oft(adapter_name_or_path=(names[0], str(tmp_path / "3"))), base_name="base", trainable=False)


def test_what_cannot_be_turned_is_refused(tiny_model_dir, tmp_path):
    said = message(tiny_model_dir, Oft(oft_block_size=24))
    assert "oft_block_size: 24 does not divide the 64 inputs of model.layers.0.mlp.down_proj" in said and said.endswith(
        "16 divides those of every target"
    )
    assert "oft_rank: 64 does not divide the 32 inputs" in message(tiny_model_dir, Oft(oft_rank=64, oft_target=("q_proj",)))
    said = message(tiny_model_dir, Oft(oft_block_size=8, oft_target=("embed_tokens",)))
    assert said == "oft_target: model.embed_tokens is Embedding; inputs of linear layers are turned: leave it out"
    with pytest.raises(ModelError, match=r"transformer.h.0.attn.c_attn is Conv1D"):
        attach(tiny("gpt2"), Oft(oft_block_size=8, oft_target=("c_attn",)), base_name="gpt2")
    tied = tiny("llama", tie_word_embeddings=True)
    with pytest.raises(ModelError, match=r"embed_tokens would be trained whole .* write finetuning_type: lora"):
        attach(tied, Oft(oft_block_size=8, additional_target=("embed_tokens",)), base_name="tied")
    config = LlamaConfig(vocab_size=64, hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "other")
    save_trained(tuned(tmp_path / "other", Oft(oft_block_size=16)), tmp_path / "a")
    said = message(tiny_model_dir, Oft(adapter_name_or_path=(str(tmp_path / "a"),)))
    assert "is 32 wide there and 48 in the adapter" in said
