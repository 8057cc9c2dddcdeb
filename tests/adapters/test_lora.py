"""LoRA adapters: what is attached, saved, continued, merged and refused; the folders are plain PEFT's.

Tolerance 1e-5 where the same fp32 products are summed in another order, exact where they are not.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from hone.adapters import lora
from hone.adapters.apply import attach, load_trained, save_trained, trainable_report
from hone.adapters.folder import locate
from hone.config.adapter import Lora
from hone.errors import ModelError
from tests.families import tiny

IDS = torch.tensor([[5, 6, 7, 8, 9, 3]])


def base(folder: Path) -> nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def tuned(folder: Path, adapter: Lora, seed: int = 0) -> nn.Module:
    """An adapter attached and moved away from its start, as training would."""
    torch.manual_seed(seed)
    module = attach(base(folder), adapter, base_name=str(folder))
    for weight in module.parameters():
        if weight.requires_grad:
            weight.data += 0.05 * torch.randn_like(weight)
    return module.eval()


@torch.no_grad()
def logits(module: nn.Module) -> torch.Tensor:
    return module.eval()(IDS).logits


KINDS = {
    "plain": Lora(lora_rank=4),
    "rslora": Lora(use_rslora=True, lora_rank=4),
    "dora": Lora(use_dora=True, lora_rank=4),
    "pissa": Lora(pissa_init=True, lora_rank=4),
    "pissa exact rslora": Lora(pissa_init=True, pissa_iter=-1, use_rslora=True, lora_rank=4),
    "named": Lora(lora_target=("q_proj", "down_proj"), lora_alpha=5, lora_dropout=0.3),
    "whole modules": Lora(additional_target=("embed_tokens", "lm_head")),
    "embedding": Lora(lora_target=("embed_tokens", "v_proj")),
    "head": Lora(lora_target=("q_proj", "lm_head")),
}


@pytest.mark.parametrize("adapter", KINDS.values(), ids=KINDS)
def test_what_is_trained_is_what_is_used(tiny_model_dir, tmp_path, adapter):
    """Saved, then used merged, continued, resumed and by plain peft: the same logits on the untouched base."""
    module = tuned(tiny_model_dir, adapter)
    wanted = logits(module)
    assert (wanted - logits(base(tiny_model_dir))).abs().max() > 0.01
    save_trained(module, tmp_path / "a")
    saved = Lora(adapter_name_or_path=(str(tmp_path / "a"),))
    merged = attach(base(tiny_model_dir), saved, base_name=str(tiny_model_dir), trainable=False)
    assert type(merged) is LlamaForCausalLM
    assert not any(weight.requires_grad for weight in merged.parameters())
    assert torch.allclose(logits(merged), wanted, atol=1e-5)
    continued = attach(base(tiny_model_dir), saved, base_name=str(tiny_model_dir))
    assert torch.allclose(logits(continued), wanted, atol=1e-5)
    assert trainable_report(continued).num_trained > 0
    assert torch.allclose(logits(PeftModel.from_pretrained(base(tiny_model_dir), tmp_path / "a")), wanted, atol=1e-5)
    resumed = tuned(tiny_model_dir, adapter, seed=7)
    load_trained(resumed, tmp_path / "a")
    assert torch.allclose(logits(resumed), wanted, atol=1e-5)


def test_a_folder_is_plain_peft_and_readable(tiny_model_dir, tmp_path):
    mask = os.umask(0o022)
    try:
        save_trained(tuned(tiny_model_dir, Lora()), tmp_path / "a")
    finally:
        os.umask(mask)
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tiny_model_dir)
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (8, 16, "LORA")
    for path in (tmp_path / "a").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o644, path.name


def test_all_means_every_linear_layer_but_the_head(tiny_model_dir, tmp_path):
    save_trained(tuned(tiny_model_dir, Lora()), tmp_path / "a")
    names = load_file(tmp_path / "a" / "adapter_model.safetensors")
    layers = {name.split(".lora_")[0] for name in names}
    assert len(layers) == 2 * 7
    assert not any("lm_head" in name for name in layers)


def test_trained_weights_are_fp32_unless_asked_otherwise(tiny_model_dir):
    half = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.bfloat16)
    module = attach(half, Lora(), base_name="tiny")
    assert trainable_report(module).dtypes == ("float32",)
    half = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.bfloat16)
    assert trainable_report(attach(half, Lora(), base_name="tiny", trained_dtype=torch.bfloat16)).dtypes == ("bfloat16",)


def test_the_report_counts_by_hand(tiny_model_dir):
    """q_proj of 2 layers, 32 x 32, rank 8: 2 * (8*32 + 32*8) = 1024."""
    module = attach(base(tiny_model_dir), Lora(lora_target=("q_proj",)), base_name="tiny")
    report = trainable_report(module)
    assert report.num_trained == 1024
    assert "1,024 of" in str(report)


@pytest.fixture
def two(tiny_model_dir, tmp_path) -> tuple[str, str]:
    """Two adapters for the same base, the second trained on top of the first."""
    save_trained(tuned(tiny_model_dir, Lora(), seed=1), tmp_path / "one")
    save_trained(tuned(tiny_model_dir, Lora(lora_target=("v_proj",)), seed=2), tmp_path / "two")
    return str(tmp_path / "one"), str(tmp_path / "two")


def test_several_adapters_add_up(tiny_model_dir, two):
    """Additions to the weights commute: merged for use, and all but the last merged in training, give one model."""
    names = Lora(adapter_name_or_path=two)
    used = logits(attach(base(tiny_model_dir), names, base_name="tiny", trainable=False))
    trained = attach(base(tiny_model_dir), names, base_name="tiny")
    assert torch.allclose(logits(trained), used, atol=1e-5)
    assert {name.split(".")[-3] for name, weight in trained.named_parameters() if weight.requires_grad} <= {"lora_A", "lora_B"}
    by_hand = PeftModel.from_pretrained(base(tiny_model_dir), two[0]).merge_and_unload()
    by_hand = PeftModel.from_pretrained(by_hand, two[1]).merge_and_unload()
    assert torch.allclose(logits(by_hand), used, atol=1e-5)


def test_a_new_adapter_on_merged_ones_starts_from_them(tiny_model_dir, two):
    used = logits(attach(base(tiny_model_dir), Lora(adapter_name_or_path=two), base_name="tiny", trainable=False))
    new = attach(base(tiny_model_dir), Lora(adapter_name_or_path=two, create_new_adapter=True, lora_rank=2), base_name="tiny")
    assert torch.allclose(logits(new), used, atol=1e-5)
    assert new.peft_config["default"].r == 2


def test_a_quantized_base_carries_its_adapters_beside(tmp_path):
    pytest.importorskip("bitsandbytes")
    from hone.config.model import ModelConfig, Quantization
    from hone.models.load import load_model

    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=64, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "base")

    def quantized() -> nn.Module:
        model = ModelConfig(model_name_or_path=str(tmp_path / "base"), quantization=Quantization())
        return load_model(model, dtype=torch.float32, device=torch.device("cpu"), for_training=True)

    for number in (1, 2):
        save_trained(tuned(tmp_path / "base", Lora(), seed=number), tmp_path / str(number))
    names = (str(tmp_path / "1"), str(tmp_path / "2"))
    stack = attach(quantized(), Lora(adapter_name_or_path=names), base_name="base", trainable=False)
    alone = attach(quantized(), Lora(adapter_name_or_path=names[:1]), base_name="base", trainable=False)
    assert isinstance(stack, PeftModel)
    assert sorted(stack.active_adapters) == ["adapter_0", "adapter_1"]
    assert (logits(stack) - logits(alone)).abs().max() > 0.001
    with pytest.raises(ModelError, match="would be merged into weights held in few bits"):
        attach(quantized(), Lora(adapter_name_or_path=names), base_name="base")
    with pytest.raises(ModelError, match="pissa_init"):
        attach(quantized(), Lora(pissa_init=True), base_name="base")


def message(folder: Path, adapter: Lora, **settings) -> str:
    with pytest.raises(ModelError) as caught:
        attach(base(folder), adapter, base_name="the-base", **settings)
    return str(caught.value)


def test_names_that_match_nothing_are_answered_with_the_names_there_are(tiny_model_dir):
    said = message(tiny_model_dir, Lora(lora_target=("q_porj",)))
    assert 'lora_target: no module is called "q_porj" (did you mean "q_proj"?)' in said
    assert "down_proj, embed_tokens, gate_proj" in said
    assert 'additional_target: no module is called "lm_haed"' in message(tiny_model_dir, Lora(additional_target=("lm_haed",)))


def test_an_adapter_of_another_base_names_both(tiny_model_dir, tmp_path):
    config = LlamaConfig(vocab_size=64, hidden_size=48, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "other")
    save_trained(tuned(tmp_path / "other", Lora()), tmp_path / "a")
    said = message(tiny_model_dir, Lora(adapter_name_or_path=(str(tmp_path / "a"),)))
    assert f"was trained on {tmp_path / 'other'} and does not fit the-base" in said
    assert "is 32 wide there and 48 in the adapter" in said


def test_a_base_under_another_name_is_said(tiny_model_dir, two, capsys):
    attach(base(tiny_model_dir), Lora(adapter_name_or_path=two[:1]), base_name="renamed", trainable=False)
    assert "it fits renamed and is used there" in capsys.readouterr().err


def test_folders_that_hold_no_adapter_are_refused(tiny_model_dir, two, tmp_path):
    def said(name: str) -> str:
        return message(tiny_model_dir, Lora(adapter_name_or_path=(name,)))

    assert "does not exist" in said(str(tmp_path / "nowhere"))
    assert "the hub does not give it" in said("nobody/nothing")
    assert "it is a whole model" in said(str(tiny_model_dir))
    broken = tmp_path / "broken"
    shutil.copytree(two[0], broken)
    weights = (broken / "adapter_model.safetensors").read_bytes()
    (broken / "adapter_model.safetensors").write_bytes(weights[: len(weights) // 2])
    assert "cannot be read" in said(str(broken))
    (broken / "adapter_model.safetensors").unlink()
    assert "holds no adapter_model.safetensors" in said(str(broken))
    (broken / "adapter_config.json").write_text("{")
    assert "cannot be read" in said(str(broken))
    (broken / "adapter_config.json").write_text('{"peft_type": "LORA", "init_lora_weights": "pissa_niter_16"}')
    assert "random and cannot be made again" in said(str(broken))
    (broken / "adapter_config.json").write_text('{"peft_type": "IA3"}')
    assert "adapter of type IA3" in said(str(broken))
    (broken / "adapter_config.json").unlink()
    (broken / "checkpoint-10").mkdir()
    assert "its checkpoint-10 may" in said(str(broken))


def test_a_folder_inside_the_repository(two, tmp_path):
    assert locate(str(tmp_path), "one").config["r"] == 8


def test_a_checkpoint_that_does_not_fit_is_refused(tiny_model_dir, two):
    with pytest.raises(ModelError, match="does not fit the adapter of this run"):
        load_trained(tuned(tiny_model_dir, Lora()), Path(two[1]))
    with pytest.raises(ModelError, match="not started by pissa_init"):
        load_trained(tuned(tiny_model_dir, Lora(pissa_init=True)), Path(two[0]))


def test_pissa_and_dora_do_not_go_together(tiny_model_dir):
    assert "leave one of them out" in message(tiny_model_dir, Lora(pissa_init=True, use_dora=True))


@pytest.fixture(scope="module")
def tied_dir(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=4, tie_word_embeddings=True
    )
    folder = tmp_path_factory.mktemp("tied")
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_tied_embeddings_stay_tied_when_they_are_trained(tied_dir, tmp_path):
    module = tuned(tied_dir, Lora(additional_target=("embed_tokens",)))
    trained = [weight for name, weight in module.named_parameters() if weight.requires_grad and weight.shape[0] == 64]
    assert len(trained) == 1
    save_trained(module, tmp_path / "a")
    used = attach(base(tied_dir), Lora(adapter_name_or_path=(str(tmp_path / "a"),)), base_name="tied", trainable=False)
    assert torch.allclose(logits(used), logits(module), atol=1e-5)
    assert used.lm_head.weight is used.model.embed_tokens.weight


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("names", [("embed_tokens",), ("lm_head",), ("embed_tokens", "lm_head")], ids="+".join)
def test_tied_embeddings_come_apart_when_one_of_them_gets_an_addition(tied_dir, tmp_path, names, dora, capsys):
    """Merged into the one tensor that both are, an addition to the input would change the output too, and the other way round."""
    module = tuned(tied_dir, Lora(lora_target=(*names, "q_proj"), use_dora=dora))
    save_trained(module, tmp_path / "a")
    used = attach(base(tied_dir), Lora(adapter_name_or_path=(str(tmp_path / "a"),)), base_name="tied", trainable=False)
    assert torch.allclose(logits(used), logits(module), atol=1e-5)
    assert "parts the tied embeddings" in capsys.readouterr().err
    assert not used.config.tie_word_embeddings and not torch.equal(used.lm_head.weight, used.model.embed_tokens.weight)


def test_a_tensor_is_not_both_added_to_and_trained_whole(tied_dir, tiny_model_dir):
    """peft drops the addition without a word in the first case, and ends in a TypeError in the others."""
    said = message(tied_dir, Lora(lora_target=("embed_tokens", "q_proj"), additional_target=("lm_head",)))
    assert "lora_target names model.embed_tokens" in said and "lm_head is the same tensor (tied embeddings)" in said
    assert "leave it out of one" in message(tied_dir, Lora(lora_target=("lm_head",), additional_target=("embed_tokens",)))
    assert "both hold it" in message(tiny_model_dir, Lora(lora_target=("lm_head",), additional_target=("lm_head",)))


def test_pissa_leaves_embeddings_alone(tied_dir, tiny_model_dir):
    """peft does not decompose an embedding, and would take the tied head's principal part out of the input as well."""
    assert "cannot decompose lm_head" in message(tied_dir, Lora(lora_target=("lm_head",), pissa_init=True))
    assert "cannot decompose model.embed_tokens" in message(tiny_model_dir, Lora(lora_target=("embed_tokens",), pissa_init=True))


def test_experts_that_get_no_addition_are_said(capsys, monkeypatch):
    monkeypatch.setattr("hone.log._said", set())
    attach(tiny("qwen3_moe"), Lora(), base_name="moe")
    assert "the experts' fused weights (down_proj, gate_up_proj) get no addition" in capsys.readouterr().err


def test_linear_layers_that_get_no_addition_are_said(capsys, monkeypatch):
    monkeypatch.setattr("hone.log._said", set())
    attach(tiny("deepseek_v3"), Lora(), base_name="moe")
    assert "these linear layers get no addition: mlp.down_proj, mlp.gate_proj, mlp.up_proj" in capsys.readouterr().err


def test_a_layer_that_peft_takes_for_the_experts_is_refused():
    """peft 0.21 would put the addition on the experts and leave the dense layer alone, and nothing could read it back."""
    with pytest.raises(ModelError, match=r"peft takes down_proj, gate_proj, up_proj for the experts' fused weights"):
        attach(tiny("deepseek_v3"), Lora(lora_target=("o_proj", "gate_proj")), base_name="moe")
    tuned = attach(tiny("deepseek_v3"), Lora(lora_target=("o_proj",)), base_name="moe")
    assert all(".o_proj." in name for name, weight in tuned.named_parameters() if weight.requires_grad)


def test_a_base_that_is_not_quantized_needs_no_bitsandbytes(tiny_model_dir):
    """Its import is a second of the start; a quantized base that comes later in the same process finds it all the same."""
    code = f"""if True:
        import sys
        from hone.adapters.apply import attach
        from hone.config.adapter import Lora
        from transformers import AutoModelForCausalLM
        attach(AutoModelForCausalLM.from_pretrained({str(tiny_model_dir)!r}), Lora(), base_name="base")
        assert not {{"bitsandbytes", "networkx"}} & set(sys.modules)
        from accelerate.utils import is_bnb_available as accelerates
        from peft.import_utils import is_bnb_4bit_available, is_bnb_available
        from transformers.utils import is_bitsandbytes_available
        assert all(is_there() for is_there in (accelerates, is_bnb_available, is_bnb_4bit_available, is_bitsandbytes_available))
    """
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_peft_that_cannot_read_experts_is_named(monkeypatch, tmp_path):
    """peft 0.19 beside transformers 5.15 and newer."""

    def refuse(*_: object) -> None:
        raise TypeError("WeightConverter.__init__() got an unexpected keyword argument 'distributed_operation'")

    monkeypatch.setattr(lora, "set_peft_model_state_dict", refuse)
    monkeypatch.setattr(lora, "read_tensors", lambda _: {})
    (tmp_path / "adapter_model.safetensors").touch()
    with pytest.raises(ModelError, match=r'cannot read the adapters of experts .*pip install "peft>=0.20"'):
        lora.load_adapter(torch.nn.Linear(1, 1), tmp_path)
