"""Learning from pictures: the loss against transformers' plain forward, what rests, and the trained folder in use."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image as Pillow
from safetensors.torch import load_file
from transformers import AutoModelForMultimodalLM

from hone import cli
from hone.chat.message import Conversation, Image, Message, Text
from hone.config.adapter import Full
from hone.config.chat import ChatConfig
from hone.config.generate import GenerateConfig
from hone.config.model import ModelConfig
from hone.inference.base import Request
from hone.inference.build import build_engine
from tests.models.test_sight import plain, talk
from tests.pictures import make_model, picture
from tests.runs import write_run


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """The folder of a model, and of a set of two rows with two pictures and none."""
    model, data = tmp_path_factory.mktemp("model"), tmp_path_factory.mktemp("data")
    make_model(model, "qwen2_5_vl")
    for name, size in (("1.png", (60, 40)), ("2.png", (30, 90))):
        (data / name).write_bytes(picture(*size))
    said = [("<image>see?<image>see?", ["1.png", "2.png"]), ("Hi", [])]
    rows = [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "A cat."}], "images": files}
        for text, files in said
    ]
    (data / "rows.json").write_text(json.dumps(rows))
    entry = {"file_name": "rows.json", "formatting": "openai", "columns": {"messages": "messages", "images": "images"}}
    (data / "dataset_info.json").write_text(json.dumps({"seen": entry}))
    return model, data


def trained(places, tmp_path: Path, **more) -> Path:
    model, data = places
    run = {
        "model_name_or_path": str(model), "template": "qwen2_vl", "stage": "sft", "dataset": "seen", "dataset_dir": str(data),
        "output_dir": str(tmp_path / "out"), "tokenized_path": str(tmp_path / "tokens"), "per_device_train_batch_size": 2,
        "max_steps": 1, "learning_rate": 0.01, "warmup_ratio": 0, "logging_steps": 1, "use_cpu": True, **more,
    }  # fmt: skip
    assert cli.main(["train", str(write_run(run, tmp_path / "run.yaml"))]) == 0
    return tmp_path / "out"


def changed(before: Path, after: Path) -> set[str]:
    """The first words of the weights that training changed."""
    old, new = (load_file(folder / "model.safetensors") for folder in (before, after))
    assert old.keys() == new.keys()
    return {".".join(name.split(".")[:2]) for name in old if not torch.equal(old[name], new[name])}


def test_the_loss_is_that_of_the_plain_forward_and_the_trained_folder_answers(places, tmp_path):
    out = trained(places, tmp_path, finetuning_type="full")
    module = AutoModelForMultimodalLM.from_pretrained(places[0], dtype=torch.float32).eval()
    engine = build_engine(ModelConfig(model_name_or_path=str(out)), ChatConfig(template="qwen2_vl"), Full())
    encoded = engine.codec.encode([talk([picture(60, 40), picture(30, 90)]), talk([])])
    found = [plain(module, engine.codec, one) for one in encoded]
    wanted = -sum(float(one.sum()) for one in found) / sum(one.num_trained for one in encoded)
    logged = json.loads((out / "trainer_log.jsonl").read_text().splitlines()[0])["loss"]
    assert logged == pytest.approx(wanted, abs=1e-4)  # the log rounds to as many digits
    assert changed(places[0], out) == {"model.language_model", "lm_head.weight"} or changed(places[0], out) <= {
        "model.embed_tokens", "model.layers", "model.norm", "lm_head.weight", "model.language_model",
    }  # fmt: skip
    asked = Conversation((Message("user", (Image(picture(60, 40)), Text("see?"))),))
    answer = [one.answer for one in engine.generate(Request(asked, GenerateConfig(do_sample=False, max_new_tokens=3)))][-1]
    assert engine.media == {"image"} and answer.num_tokens == 3


def test_parts_learn_as_they_are_told(places, tmp_path):
    out = trained(places, tmp_path, finetuning_type="full", freeze_vision_tower=False, freeze_language_model=True)
    assert all("visual" in name for name in changed(places[0], out))
    assert changed(places[0], out)


def test_lora_leaves_the_tower_alone(places, tmp_path):
    out = trained(places, tmp_path, finetuning_type="lora", lora_target="qkv,q_proj,proj")
    names = load_file(out / "adapter_model.safetensors").keys()
    assert names and not any("visual" in name for name in names)
    assert "pipeline_tag: image-text-to-text\n" in (out / "README.md").read_text()


def test_pairs_about_pictures_are_held_against_a_reference_that_sees_them(places, tmp_path):
    """An adapter begins as nothing, so that both see the same: the first loss is log 2; a blind reference would give another."""
    row = {
        "messages": [{"role": "user", "content": "<image>see?"}],
        "chosen": {"role": "assistant", "content": "A cat."},
        "rejected": {"role": "assistant", "content": "No."},
        "images": [str(places[1] / "1.png")],
    }
    (tmp_path / "pairs.json").write_text(json.dumps([row, row]))
    columns = {"messages": "messages", "chosen": "chosen", "rejected": "rejected", "images": "images"}
    entry = {"file_name": "pairs.json", "formatting": "openai", "ranking": True, "columns": columns}
    (tmp_path / "dataset_info.json").write_text(json.dumps({"pairs": entry}))
    out = trained(places, tmp_path, stage="dpo", finetuning_type="lora", dataset="pairs", dataset_dir=str(tmp_path))
    assert json.loads((out / "trainer_log.jsonl").read_text().splitlines()[0])["loss"] == pytest.approx(math.log(2), abs=1e-4)


def test_answers_of_its_own_are_drawn_to_text_alone(places, tmp_path, capsys):
    run = {
        "model_name_or_path": str(places[0]), "template": "qwen2_vl", "stage": "gkd", "finetuning_type": "lora",
        "dataset": "seen", "dataset_dir": str(places[1]), "output_dir": str(tmp_path / "out"),
        "tokenized_path": str(tmp_path / "tokens"), "teacher_model": str(places[0]), "max_steps": 1, "use_cpu": True,
    }  # fmt: skip
    assert cli.main(["train", str(write_run(run, tmp_path / "run.yaml"))]) == 2
    assert "drawn to text alone" in capsys.readouterr().err


def test_pictures_are_upright_and_within_limits(tmp_path):
    from hone.models.media.pictures import Limits, read_picture, size_of

    file = io.BytesIO()
    image = Pillow.new("RGB", (40, 20))
    exif = image.getexif()
    exif[0x0112] = 6  # lies on its side
    image.save(file, "JPEG", exif=exif)
    for limits, size in ((Limits(10**6, 1), (20, 40)), (Limits(200, 1), (10, 20)), (Limits(10**6, 3200), (40, 80))):
        assert size_of(file.getvalue(), limits) == read_picture(file.getvalue(), limits).size == size
