"""Adapters of tied embeddings: each way of training one side or both, exported and reloaded by plain transformers.

Tolerance 1e-5: the same fp32 products summed in another order, on logits of about 1.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from hone.adapters.apply import attach, save_trained
from hone.config.adapter import Lora
from tests.export.whole import logits, run_export, tuned_logits


@pytest.fixture(scope="module")
def tied_dir(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer) -> Path:
    """A random Llama whose input and output embeddings are one tensor, with the tiny tokenizer beside it."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tied")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tiny_tokenizer), tie_word_embeddings=True, **sizes)).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


def check_export(base: Path, adapter: Path, out: Path, *, tied: bool, method: str = "rows at a time") -> None:
    report = run_export(base, [adapter], out)
    assert report.parity.passed and method in report.method
    module = AutoModelForCausalLM.from_pretrained(out)
    assert (logits(module) - tuned_logits(base, adapter)).abs().max() < 1e-5
    assert module.config.tie_word_embeddings is tied
    assert ("lm_head.weight" in load_file(out / "model.safetensors")) is not tied


BY_PEFT = {
    "added to the input": ({"target_modules": ["q_proj", "embed_tokens"]}, False),
    "added to the output": ({"target_modules": ["q_proj", "lm_head"]}, False),
    "added to both": ({"target_modules": ["q_proj", "embed_tokens", "lm_head"]}, False),
    "added to both as one": ({"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True}, False),
    "input whole": ({"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}, False),
    "output whole": ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, False),
    "both whole": ({"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}, False),
    "both whole as one": ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"], "ensure_weight_tying": True}, True),
    "added to the input, output whole": ({"target_modules": ["q_proj", "embed_tokens"], "modules_to_save": ["lm_head"]}, False),
    "added to the output, input whole": ({"target_modules": ["q_proj", "lm_head"], "modules_to_save": ["embed_tokens"]}, False),
    "neither": ({"target_modules": ["q_proj"]}, True),
}


@pytest.mark.parametrize(("settings", "tied"), BY_PEFT.values(), ids=BY_PEFT)
def test_adapters_of_peft(tied_dir, make_adapter, tmp_path, settings, tied) -> None:
    """PEFT saves the base's own embeddings beside an addition to them; they stand for both sides."""
    check_export(tied_dir, make_adapter(tied_dir, "one", **settings), tmp_path / "out", tied=tied)


@pytest.mark.parametrize("side", ["embed_tokens", "lm_head"])
def test_weights_normalised_by_dora(tied_dir, make_adapter, tmp_path, side) -> None:
    adapter = make_adapter(tied_dir, "one", target_modules=["q_proj", side], use_dora=True)
    check_export(tied_dir, adapter, tmp_path / "out", tied=False, method="use_dora")


BY_HONE = {
    "input": (Lora(lora_target=("embed_tokens", "v_proj")), False),
    "output": (Lora(lora_target=("lm_head", "v_proj")), False),
    "input whole": (Lora(additional_target=("embed_tokens",)), True),
    "output whole": (Lora(additional_target=("lm_head",)), True),
}


@pytest.mark.parametrize(("adapter", "tied"), BY_HONE.values(), ids=BY_HONE)
def test_adapters_of_hone(tied_dir, tmp_path, adapter, tied) -> None:
    """What is trained whole stays one tensor, as it was while it was trained."""
    torch.manual_seed(1)
    module = attach(AutoModelForCausalLM.from_pretrained(tied_dir), adapter, base_name=str(tied_dir))
    for weight in module.parameters():
        if weight.requires_grad:
            weight.data += 0.05 * torch.randn_like(weight)
    save_trained(module, tmp_path / "one")
    check_export(tied_dir, tmp_path / "one", tmp_path / "out", tied=tied)


def test_a_second_adapter_finds_the_embeddings_apart(tied_dir, make_adapter, tmp_path) -> None:
    """The first adds to the input; the second was trained on that model, saved untied, and adds to both."""
    first = make_adapter(tied_dir, "first", seed=1, target_modules=["embed_tokens"])
    run_export(tied_dir, [first], tmp_path / "middle")
    second = make_adapter(tmp_path / "middle", "second", seed=2, target_modules=["embed_tokens", "lm_head"])
    file = second / "adapter_model.safetensors"
    save_file({name: tensor for name, tensor in load_file(file).items() if "base_layer" not in name}, file)
    assert run_export(tied_dir, [first, second], tmp_path / "out").parity.passed
    module = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert (logits(module) - tuned_logits(tmp_path / "middle", second)).abs().max() < 1e-5
