"""Vocabularies that grew in training: trained by the command, exported by the command, reloaded by plain transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from hone.cli import main
from hone.errors import ExportError
from tests.export.whole import leftovers, logits, run_export
from tests.runs import write_run

NEW = {"<n1>": 420, "<n2>": 421, "<s1>": 422}
TEXT = (1, 40, *NEW.values(), 60, 7)
METHODS = {
    "full": {"finetuning_type": "full", "lora_target": None},
    "freeze": {"finetuning_type": "freeze", "lora_target": None, "freeze_trainable_layers": 1},
    "lora": {"lora_target": "q_proj"},
    "dora": {"lora_target": "q_proj", "use_dora": True},
}


@pytest.fixture(scope="module", params=[False, True], ids=["apart", "tied"])
def base(request, tmp_path_factory, tiny_model_dir, tiny_tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig.from_pretrained(tiny_model_dir, tie_word_embeddings=request.param)).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_trained_exported_and_reloaded(base, tiny_run, tmp_path, method) -> None:
    """1e-5: fp32 sums in another order. The new rows take part, as the text holds the new tokens and the logits their rows."""
    run = {**tiny_run, **method, "model_name_or_path": str(base), "add_tokens": "<n1>,<n2>", "add_special_tokens": "<s1>"}
    path = write_run({key: value for key, value in {**run, "max_steps": 2}.items() if value is not None}, tmp_path / "run.yaml")
    trained, out = tmp_path / "out", tmp_path / "merged"
    assert main(["train", str(path)]) == 0
    named = "adapter_name_or_path" if run["finetuning_type"] == "lora" else "model_name_or_path"
    assert main(["export", str(path), f"{named}={trained}", f"export_dir={out}"]) == 0

    if named == "adapter_name_or_path":
        wide = AutoModelForCausalLM.from_pretrained(base)
        wide.resize_token_embeddings(448, mean_resizing=False)
        wanted = logits(PeftModel.from_pretrained(wide, trained), TEXT)
    else:
        wanted = logits(AutoModelForCausalLM.from_pretrained(trained), TEXT)
    module, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    assert (logits(module, TEXT) - wanted).abs().max() < 1e-5
    assert wanted.shape[-1] == module.config.vocab_size == 448
    assert module.config.tie_word_embeddings is AutoModelForCausalLM.from_pretrained(base).config.tie_word_embeddings
    assert {name: tokenizer.convert_tokens_to_ids(name) for name in NEW} == NEW
    assert tokenizer("<n1> a<s1>")["input_ids"][0] == 420 and "<s1>" not in tokenizer.decode([422], skip_special_tokens=True)
    # The exported folder is a model like any other: exported again, it needs no word of the tokens, and stays the same.
    assert main(["export", f"model_name_or_path={out}", f"export_dir={tmp_path / 'again'}"]) == 0
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "again"), TEXT), logits(module, TEXT))


@pytest.mark.parametrize("settings", [None, {}, {"use_dora": True}], ids=["base", "lora", "dora"])
def test_rows_that_nobody_trained_are_not_drawn_at_random(tiny_model_dir, make_adapter, tmp_path, settings) -> None:
    adapters = [] if settings is None else [make_adapter(tiny_model_dir, "one", target_modules=["q_proj"], **settings)]
    with pytest.raises(ExportError, match=r"to grow to 421 tokens, and neither base nor adapters hold .* more than 420\. Leave"):
        run_export(tiny_model_dir, adapters, tmp_path / "out", add_tokens=("<new>",))
    assert leftovers(tmp_path) == []
