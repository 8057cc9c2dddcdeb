"""Models come out of their files with the type, attention, positions and bits asked for, or fail with words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoTokenizer

from hone.adapters.apply import attach
from hone.config.adapter import Lora
from hone.config.model import ModelConfig, Quantization
from hone.errors import MissingExtra, ModelError
from hone.models.embeddings import resize_vocab
from hone.models.load import describe, load_model
from hone.models.policy import Policy
from hone.models.quantize import quantization_config
from hone.models.selftest import _rows
from tests.families import tiny

CPU = torch.device("cpu")


def load(folder: Path, *, dtype=torch.float32, for_training=True, length=None, **settings):
    config = ModelConfig(model_name_or_path=str(folder), **settings)
    return load_model(config, dtype=dtype, device=CPU, for_training=for_training, length=length)


def copied(folder: Path, target: Path) -> Path:
    shutil.copytree(folder, target)
    return target


def test_what_was_loaded_is_said(tiny_model_dir, capsys):
    module = load(tiny_model_dir, dtype=torch.bfloat16)
    found = describe(module)
    assert found.num_weights == sum(weight.numel() for weight in module.parameters())
    assert found.dtype == "bfloat16"
    assert found.bytes >= 2 * found.num_weights
    assert found.attention == "sdpa"
    assert "LlamaForCausalLM" in capsys.readouterr().err
    assert module.training
    assert module.config.use_cache is False


def test_for_use_the_cache_is_on_and_dropout_off(tiny_model_dir):
    module = load(tiny_model_dir, for_training=False)
    assert not module.training
    assert module.config.use_cache


def test_from_scratch_follows_the_seed_and_not_the_files(tiny_model_dir):
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(load(tiny_model_dir, train_from_scratch=True).lm_head.weight)
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], load(tiny_model_dir).lm_head.weight)


def test_attention_is_the_one_asked_for_or_an_error(tiny_model_dir, tmp_path):
    assert describe(load(tiny_model_dir, flash_attn="disabled")).attention == "eager"
    assert describe(load(tiny_model_dir, flash_attn="sdpa")).attention == "sdpa"
    with pytest.raises(ModelError, match="fa2 does not run on the CPU"):
        load(tiny_model_dir, flash_attn="fa2")
    tiny("gpt_oss").save_pretrained(tmp_path)
    assert describe(load(tmp_path)).attention == "eager"
    with pytest.raises(ModelError, match="gpt_oss has no sdpa attention"):
        load(tmp_path, flash_attn="sdpa")


def test_positions_stretch_by_the_whole_factor_that_the_length_needs(tiny_model_dir):
    config = load(tiny_model_dir, rope_scaling="linear", length=1100).config
    assert config.rope_parameters["factor"] == 3.0  # ceil(1100 / 512)
    assert config.max_position_embeddings == 1536
    for kind in ("dynamic", "yarn", "llama3"):
        module = load(tiny_model_dir, rope_scaling=kind, length=1024)
        assert module.config.rope_parameters["rope_type"] == kind
        assert module(torch.arange(3)[None]).logits.isfinite().all()


def test_linear_stretching_divides_positions(tiny_model_dir):
    """With factor 2, token t of the stretched model is turned as token t / 2 of the plain one."""
    plain, stretched = load(tiny_model_dir), load(tiny_model_dir, rope_scaling="linear", length=1024)
    ids = torch.arange(6)[None]
    even = torch.arange(0, 12, 2)[None]
    seen = torch.ones_like(ids)  # without a mask, positions that jump would be taken for packed sequences
    assert torch.allclose(plain(ids).logits, stretched(ids, position_ids=even, attention_mask=seen).logits, atol=1e-5)


def test_positions_stay_where_the_length_fits_and_are_not_stretched_twice(tiny_model_dir, tmp_path):
    assert load(tiny_model_dir, rope_scaling="linear", length=500).config.max_position_embeddings == 512
    load(tiny_model_dir, rope_scaling="yarn", length=1024).save_pretrained(tmp_path / "yarn")
    with pytest.raises(ModelError, match="own yarn scaling"):
        load(tmp_path / "yarn", rope_scaling="linear", length=4096)
    tiny("gpt2").save_pretrained(tmp_path / "gpt2")
    with pytest.raises(ModelError, match="no rotary positions"):
        load(tmp_path / "gpt2", rope_scaling="linear", length=4096)


@pytest.mark.parametrize("kind", ["linear", "dynamic", "yarn", "llama3"])
def test_a_stretched_model_that_was_saved_is_not_stretched_again(kind, tiny_model_dir, tmp_path):
    """The same key as in its training: without a length (chat), with that length (export), and with a longer one."""
    stretched = load(tiny_model_dir, rope_scaling=kind, length=1024)
    stretched.save_pretrained(tmp_path / "out")
    for length in (None, 1024, 700):
        again = load(tmp_path / "out", rope_scaling=kind, length=length).config
        assert again.rope_parameters == stretched.config.rope_parameters and again.max_position_embeddings == 1024
    longer, direct = (load(folder, rope_scaling=kind, length=1500).config for folder in (tmp_path / "out", tiny_model_dir))
    assert longer.rope_parameters == direct.rope_parameters and longer.max_position_embeddings == 1536


def test_weights_missing_from_the_files_are_an_error(tiny_model_dir, tmp_path):
    folder = copied(tiny_model_dir, tmp_path / "wide")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(ModelError, match=r"weights of the model are not in its files.*layers\.2"):
        load(folder)
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 65}))
    with pytest.raises(ModelError, match="wide"):
        load(folder)


def test_weights_nobody_reads_are_said(tiny_model_dir, tmp_path, capsys):
    folder = copied(tiny_model_dir, tmp_path / "short")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
    load(folder)
    assert "belong to no part of the model" in capsys.readouterr().err


def test_mistakes_are_named(tiny_tokenizer_dir, tiny_model_dir, tmp_path):
    with pytest.raises(ModelError, match="does not exist"):
        load(tmp_path / "nowhere")
    with pytest.raises(ModelError, match="holds no config"):
        load(tiny_tokenizer_dir)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="it is an adapter: put it under adapter_name_or_path"):
        load(tmp_path / "adapter")
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(ModelError, match="vit, which transformers does not know as a causal"):
        load(tmp_path / "bert")
    folder = copied(tiny_model_dir, tmp_path / "cut")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=r"model in .*cut cannot be read"):
        load(folder)


@pytest.mark.parametrize("tied", [True, False])
def test_the_vocabulary_grows_to_a_multiple_of_64_around_the_mean(tied):
    module = tiny("llama", tie_word_embeddings=tied)  # 99 words

    class Longer:
        def __len__(self) -> int:
            return 130

    old = module.get_input_embeddings().weight.clone()
    assert resize_vocab(module, Longer(), noise=0.0)
    rows = module.get_input_embeddings().weight
    assert rows.shape[0] == 192
    assert torch.equal(rows[:99], old)
    assert torch.allclose(rows[99:], old.mean(0).expand(93, -1), atol=1e-6)
    assert (module.get_output_embeddings().weight is rows) == tied
    assert module.resized_modules == (("embed_tokens",) if tied else ("embed_tokens", "lm_head"))
    assert module.config.vocab_size == 192
    assert not resize_vocab(module, Longer())


def test_new_rows_differ_from_each_other():
    module = tiny("llama")
    tokenizer = type("T", (), {"__len__": lambda self: 101})()
    torch.manual_seed(0)
    resize_vocab(module, tokenizer)
    rows = module.get_input_embeddings().weight
    noise = (rows[99:] - rows[:99].mean(0)).std()
    assert noise.item() == pytest.approx(1 / 32**0.5, rel=0.2)


def test_added_tokens_grow_the_model_and_go_into_the_adapter(tiny_model_dir):
    module = load(tiny_model_dir, add_special_tokens=("<|a|>", "<|b|>"))
    assert module.config.vocab_size % 64 == 0
    tuned = attach(module, Lora(), base_name="tiny")
    assert tuned.peft_config["default"].modules_to_save == ["embed_tokens", "lm_head"]


def test_a_description_starts_a_new_token(tiny_model_dir):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    tokenizer.add_tokens(["<rain>"])
    module = load(tiny_model_dir)
    resize_vocab(module, tokenizer, noise=0.0, descriptions={"<rain>": "rain falls"})
    rows = module.get_input_embeddings().weight
    ids = tokenizer.encode("rain falls", add_special_tokens=False)
    assert torch.allclose(rows[tokenizer.convert_tokens_to_ids("<rain>")], rows[ids].mean(0), atol=1e-6)


@pytest.fixture
def wide_model_dir(tmp_path) -> Path:
    """bitsandbytes wants rows of 64."""
    torch.manual_seed(0)
    tiny("llama", hidden_size=64, intermediate_size=128, head_dim=16).save_pretrained(tmp_path / "wide")
    return tmp_path / "wide"


@pytest.mark.parametrize("quantization", [Quantization(), Quantization(type="fp4", double=False), Quantization(bit=8)])
def test_quantized_bases_are_frozen_near_the_original_and_train_adapters(wide_model_dir, quantization):
    """4 bits keep the log-probs of a 2-layer model within 10 %, 8 bits within 3 %; random weights are the worst case."""
    pytest.importorskip("bitsandbytes")
    base = load(wide_model_dir, quantization=quantization)
    assert not any(weight.requires_grad for weight in base.parameters())
    exact, row = Policy(load(wide_model_dir)), _rows(99, CPU)[0]
    wanted = exact.token_logprobs(row).detach()
    tuned = attach(base, Lora(), base_name="wide")
    got = Policy(tuned).token_logprobs(row)
    tolerance = 0.03 if quantization.bit == 8 else 0.35
    assert (got - wanted).norm() / wanted.norm() < tolerance
    got.sum().backward()
    assert all(weight.grad is not None for weight in tuned.parameters() if weight.requires_grad)


@pytest.mark.parametrize("bit", [4, 8])
def test_an_evaluation_leaves_the_gradients_of_a_quantized_base_right(wide_model_dir, bit):
    """bitsandbytes repacks 4-bit weights at a forward in evaluation mode on some CPUs; gradients were then off by 100 %."""
    pytest.importorskip("bitsandbytes")
    row, grads = _rows(99, CPU)[0], []
    for evaluate in (False, True):
        torch.manual_seed(0)
        tuned = attach(load(wide_model_dir, quantization=Quantization(bit=bit), dtype=torch.bfloat16), Lora(), base_name="wide")
        for name, weight in tuned.named_parameters():
            if "lora_B" in name:
                nn.init.constant_(weight, 0.01)
        policy = Policy(tuned)
        if evaluate:
            policy.self_test()
        policy.token_logprobs(row).sum().backward()
        grads.append([weight.grad for weight in tuned.parameters() if weight.requires_grad])
    assert all(torch.equal(left, right) for left, right in zip(*grads, strict=True))


def test_quantization_says_what_it_cannot(tiny_model_dir, monkeypatch):
    with pytest.raises(ModelError, match="train_from_scratch trains every weight"):
        load(tiny_model_dir, quantization=Quantization(), train_from_scratch=True)
    with pytest.raises(ModelError, match="embeddings of a quantized base cannot grow"):
        load(tiny_model_dir, quantization=Quantization(), add_tokens=("<x>",))
    monkeypatch.setattr("hone.models.quantize.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install \"hone-llm\[quant\]\""):
        quantization_config(Quantization(), torch.float32)


def test_recomputation_is_refused_by_name_where_the_family_cannot():
    from hone.models.checkpointing import recompute_activations

    with pytest.raises(ModelError, match="gradient_checkpointing: false"):
        recompute_activations(nn.Linear(2, 2))


def test_generation_settings_that_could_not_be_saved_are_mended(tiny_model_dir, tmp_path):
    folder = copied(tiny_model_dir, tmp_path / "sampled")
    (folder / "generation_config.json").write_text(json.dumps({"temperature": 0.6, "top_p": 0.9}))
    module = load(folder)
    assert module.generation_config.do_sample
    module.save_pretrained(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text())["temperature"] == 0.6
