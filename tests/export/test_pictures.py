"""Models that take pictures or sounds are merged under the names their files hold, and their cards load them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForMultimodalLM

from hone.config.chat import ChatConfig
from tests.export.whole import logits, run_export
from tests.pictures import make_model

TASKS = {"qwen2_5_vl": "image-text-to-text", "llava": "image-text-to-text", "qwen2_audio": "audio-text-to-text"}


def make_adapter(base: Path, folder: Path) -> Path:
    settings = LoraConfig(r=2, target_modules=r".*language_model.*\.(q_proj|down_proj)", init_lora_weights=False)
    get_peft_model(AutoModelForMultimodalLM.from_pretrained(base), settings).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", TASKS)
def test_the_merge_is_row_by_row_and_its_card_runs(family, tmp_path, monkeypatch) -> None:
    base, out = tmp_path / "base", tmp_path / "out"
    _, template = make_model(base, family)
    adapter = make_adapter(base, tmp_path / "adapter")
    report = run_export(base, [adapter], out, chat=ChatConfig(template=template))
    assert report.method == "merged rows at a time"
    assert load_file(out / "model.safetensors").keys() == load_file(base / "model.safetensors").keys()
    merged = AutoModelForMultimodalLM.from_pretrained(out)
    plain = AutoModelForMultimodalLM.from_pretrained(base)
    before = logits(plain)
    wanted = logits(PeftModel.from_pretrained(plain, adapter))
    assert (logits(merged) - wanted).abs().max() < 1e-4 * wanted.abs().max()  # fp32: one sum in place of two
    assert (before - wanted).abs().max() > 1e-2 * wanted.abs().max()
    card = ModelCard.load(out / "README.md", ignore_metadata_errors=False)
    assert card.data.to_dict()["pipeline_tag"] == TASKS[family]
    found: dict = {}
    monkeypatch.chdir(out)
    exec(re.search(r"```python\n(.*?)```", card.text, re.DOTALL)[1].replace("this folder", "."), found)
    assert isinstance(found["model"], type(merged)) and found["processor"] is not None
    assert torch.equal(logits(found["model"]), logits(merged))
