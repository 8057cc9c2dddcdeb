"""Models that take pictures or sounds are merged under the names their files hold, and their cards load them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image as Pillow
from safetensors.torch import load_file
from transformers import AutoModelForMultimodalLM

from hone import cli
from hone.chat.message import Conversation, Image, Message, Text, message
from hone.config.chat import ChatConfig
from hone.config.model import ModelConfig
from hone.data.batch import pack
from hone.inference.codec import load_codec
from hone.models.load import load_model
from hone.models.media.reader import load_reader
from hone.models.policy import Policy
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


def test_rows_with_pictures_are_what_perplexity_is_taken_of(tmp_path, capsys) -> None:
    """That of the trained model is the policy's, which is held against the makers' processors; fp32 sums in another order."""
    base, data, out = tmp_path / "base", tmp_path / "data", tmp_path / "out"
    _, template = make_model(base, "qwen2_5_vl")
    data.mkdir()
    Pillow.new("RGB", (60, 40), "red").save(data / "1.png")
    said = [{"role": "user", "content": "<image>see?"}, {"role": "assistant", "content": "A cat."}]
    (data / "rows.json").write_text(json.dumps([{"messages": said, "images": ["1.png"]}]))
    entry = {"file_name": "rows.json", "formatting": "openai", "columns": {"messages": "messages", "images": "images"}}
    (data / "dataset_info.json").write_text(json.dumps({"rows": entry}))
    words = [
        f"model_name_or_path={base}",
        f"template={template}",
        f"dataset_dir={data}",
        f"export_dir={out}",
        "export_device=cpu",
    ]
    assert cli.main(["export", *words, "eval_dataset=rows", "export_device=cpu", f"tokenized_path={tmp_path / 'cache'}"]) == 0
    (before, after) = re.search(r"perplexity of the rows (\S+) trained, (\S+) exported", capsys.readouterr().out).groups()
    model = ModelConfig(model_name_or_path=str(base))
    codec = load_codec(model, ChatConfig(template=template), reader=load_reader(model))
    asked = Conversation((Message("user", (Image(data / "1.png"), Text("see?"))), message("assistant", "A cat.")))
    (encoded,) = codec.encode([asked], "last")
    with torch.no_grad():
        module = load_model(model, dtype=torch.float32, device=torch.device("cpu"), for_training=False)
        logprobs = Policy(module).token_logprobs(pack([encoded]))
    wanted = torch.exp(-logprobs.sum() / encoded.num_trained).item()
    assert float(before) == pytest.approx(wanted, rel=1e-3) and float(after) == pytest.approx(wanted, rel=1e-3)
