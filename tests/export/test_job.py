"""Whole exports: reloaded by plain transformers, interrupted, refused, on a full disk, and of models that need the long way."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hone.chat.codec import build_codec
from hone.chat.message import Conversation, message
from hone.config.chat import ChatConfig
from hone.config.model import Quantization
from hone.errors import ExportError, ModelError
from hone.export import ingredients, job
from hone.export.folder import REPORT
from tests.export.whole import leftovers, logits, run_export, tuned_logits


def test_reloaded_by_plain_transformers(tiny_model_dir, make_adapter, tmp_path, tiny_tokenizer) -> None:
    """1e-5: fp32 sums in another order, on logits of about 0.1."""
    adapter = make_adapter(tiny_model_dir, "one")
    report = run_export(tiny_model_dir, [adapter], tmp_path / "out")
    assert report.parity.passed and report.parity.carried == pytest.approx(1.0, abs=1e-3)
    module = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert (logits(module) - tuned_logits(tiny_model_dir, adapter)).abs().max() < 1e-5
    assert (logits(module) - logits(AutoModelForCausalLM.from_pretrained(tiny_model_dir))).abs().max() > 1e-3
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    talk = [{"role": "user", "content": "Hi"}]
    ids = tokenizer.apply_chat_template(talk, add_generation_prompt=True, return_dict=False)
    assert ids == build_codec(ChatConfig(), tiny_tokenizer).prompt(Conversation((message("user", "Hi"),)))
    assert module.generation_config.eos_token_id == [tiny_tokenizer.eos_token_id]
    saved = json.loads((tmp_path / "out" / REPORT).read_text())
    assert saved["parity"]["passed"] is True and saved["adapters"] == [str(adapter)]


def test_files_are_readable_as_the_umask_says(tiny_model_dir, tmp_path) -> None:
    before = os.umask(0o022)
    try:
        run_export(tiny_model_dir, [], tmp_path / "out")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").iterdir()} == {0o644}
    assert leftovers(tmp_path) == ["out"]


def test_conversion_changes_the_number_format(tiny_model_dir, tmp_path) -> None:
    report = run_export(tiny_model_dir, [], tmp_path / "out", dtype="bfloat16")
    assert report.dtype == "bfloat16" and report.parity.passed and report.parity.effect is None
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto").dtype == torch.bfloat16


def test_new_tokens_grow_the_exported_vocabulary(tiny_model_dir, make_adapter, tmp_path, tiny_tokenizer) -> None:
    """The base has 420 rows; an adapter trained with one token more brings 448, a multiple of 64."""
    wide = tmp_path / "wide"
    module = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    module.resize_token_embeddings(448, mean_resizing=False)
    module.save_pretrained(wide)
    adapter = make_adapter(wide, "one", target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"])
    report = run_export(tiny_model_dir, [adapter], tmp_path / "out", add_tokens=("<new>",))
    assert report.parity.passed and "rows at a time" in report.method
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").get_input_embeddings().weight.shape[0] == 448
    assert "<new>" in AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab()


def test_dora_takes_the_long_way_and_is_as_right(tiny_model_dir, make_adapter, tmp_path) -> None:
    adapter = make_adapter(tiny_model_dir, "one", use_dora=True)
    report = run_export(tiny_model_dir, [adapter], tmp_path / "out")
    assert "use_dora" in report.method and report.parity.passed
    assert (
        logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out")) - tuned_logits(tiny_model_dir, adapter)
    ).abs().max() < 1e-5


def test_base_of_old_files_takes_the_long_way(tiny_model_dir, make_adapter, tmp_path, tiny_tokenizer) -> None:
    base = tmp_path / "old"
    base.mkdir()
    tiny_tokenizer.save_pretrained(base)
    (base / "config.json").write_text((tiny_model_dir / "config.json").read_text())
    torch.save(AutoModelForCausalLM.from_pretrained(tiny_model_dir).state_dict(), base / "pytorch_model.bin")
    report = run_export(base, [make_adapter(tiny_model_dir, "one")], tmp_path / "out")
    assert "older files" in report.method and report.parity.passed
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_a_run_that_held_the_base_in_few_bits_is_merged_into_the_original(tiny_model_dir, make_adapter, tmp_path, capsys) -> None:
    adapter = make_adapter(tiny_model_dir, "one")
    assert run_export(tiny_model_dir, [adapter], tmp_path / "out", quantization=Quantization()).parity.passed
    assert "quantization_bit is left aside" in capsys.readouterr().err
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())


def test_an_adapter_of_another_base_is_marked(tiny_model_dir, make_adapter, tmp_path) -> None:
    """Of the same shapes: the merge is exact and says so, but the line that says so is marked, as are report and card."""
    adapter = make_adapter(tiny_model_dir, "one")
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": "someone/other-model"}))
    report = run_export(tiny_model_dir, [adapter], tmp_path / "out")
    marked = [line for line in report.lines() if "WARNING" in line]
    assert "trained on someone/other-model" in marked[0] and marked[1].startswith("parity passed") and len(marked) == 2
    assert json.loads((tmp_path / "out" / REPORT).read_text())["warnings"]
    assert "WARNING" in (tmp_path / "out" / "README.md").read_text()
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": str(tiny_model_dir)}))
    assert not any("WARNING" in line for line in run_export(tiny_model_dir, [adapter], tmp_path / "out").lines())


def test_stretched_positions_stay_in_the_config(tiny_model_dir, tmp_path) -> None:
    run_export(tiny_model_dir, [], tmp_path / "out", rope_scaling="linear")
    config = AutoModelForCausalLM.from_pretrained(tmp_path / "out").config
    assert config.rope_parameters["rope_type"] == "linear" and config.max_position_embeddings == 1024


@pytest.mark.parametrize("moment", ["merge", "measure_parity", "publish"])
def test_an_interrupted_export_leaves_nothing(tiny_model_dir, tmp_path, monkeypatch, moment) -> None:
    original = getattr(job, moment)

    def interrupted(*arguments, **named):
        if moment == "merge":
            original(*arguments, **named)
        raise KeyboardInterrupt

    monkeypatch.setattr(job, moment, interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_export(tiny_model_dir, [], tmp_path / "out")
    assert leftovers(tmp_path) == []


def test_an_older_export_is_replaced_only_when_the_new_one_stands(tiny_model_dir, make_adapter, tmp_path, monkeypatch) -> None:
    run_export(tiny_model_dir, [], tmp_path / "out")
    before = (tmp_path / "out" / "model.safetensors").read_bytes()
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(job, "measure_parity", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("power cut")))
        run_export(tiny_model_dir, [make_adapter(tiny_model_dir, "one")], tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before
    run_export(tiny_model_dir, [make_adapter(tiny_model_dir, "two")], tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() != before
    assert leftovers(tmp_path) == ["out"]


def test_a_folder_that_holds_something_else_is_refused(tiny_model_dir, tmp_path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("ten years of work")
    with pytest.raises(ExportError, match=r"not an export .*thesis\.tex"):
        run_export(tiny_model_dir, [], tmp_path / "out")
    assert leftovers(tmp_path) == ["out"]


def test_the_base_and_the_adapter_are_never_overwritten(tiny_model_dir, make_adapter, tmp_path) -> None:
    adapter = make_adapter(tiny_model_dir, "one")
    for place in (tiny_model_dir, adapter, adapter.parent):
        with pytest.raises(ExportError, match="is read while exporting"):
            run_export(tiny_model_dir, [adapter], place)


def test_a_wrong_merge_is_told_by_its_figure_and_set_aside(tiny_model_dir, make_adapter, tmp_path, monkeypatch) -> None:
    """Without its additions the recipe gives the bare base."""
    plan = ingredients.plan_recipe
    monkeypatch.setattr(
        ingredients,
        "plan_recipe",
        lambda *arguments, **named: replace(
            found := plan(*arguments, **named), steps=tuple(replace(step, additions=()) for step in found.steps)
        ),
    )
    with pytest.raises(ExportError, match=r"FAILED.*largest logit difference.*-?0\.00 % of the adapter") as caught:
        run_export(tiny_model_dir, [make_adapter(tiny_model_dir, "one")], tmp_path / "out")
    assert caught.value.exit_code == 1
    assert leftovers(tmp_path) == ["out.failed"]


def test_missing_adapter_is_named(tiny_model_dir, tmp_path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        run_export(tiny_model_dir, [tmp_path / "nowhere"], tmp_path / "out")
    assert leftovers(tmp_path) == []


def test_a_model_too_large_for_parity_is_exported_and_says_so(tiny_model_dir, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("hone.export.trial.available_bytes", lambda _: 1000)
    report = run_export(tiny_model_dir, [], tmp_path / "out")
    assert report.parity is None and "NOT measured" in "\n".join(report.lines())
    assert "parity is not measured" in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / REPORT).read_text())["parity"]["measured"] is False


def test_another_format_than_the_tokenizer_s_own_is_written_beside(tiny_model_dir, tmp_path, tiny_tokenizer) -> None:
    chat = ChatConfig(default_system="Be brief.")
    report = run_export(tiny_model_dir, [], tmp_path / "out", chat=chat)
    assert report.template.agrees and report.template.text
    talk = [{"role": "user", "content": "Hi"}]
    text = AutoTokenizer.from_pretrained(tmp_path / "out").apply_chat_template(talk, add_generation_prompt=True, tokenize=False)
    assert text == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
