"""The other hubs: names and ids become those of the hub in use, and its package is asked for the right files, as a stub tells."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from hone.config import load
from hone.config.environment import read_environment
from hone.config.model import ModelConfig
from hone.errors import ConfigError, MissingExtra, ModelError
from hone.models import hubs
from hone.models.catalog import model_catalog
from hone.models.load import load_model
from hone.models.place import hub_name, settle
from hone.models.tokenizer import load_tokenizer
from hone.training.prepare import prepare
from hone.training.session import Session, carry_out

CPU = {"dtype": torch.float32, "device": torch.device("cpu"), "for_training": False}


@pytest.fixture(autouse=True)
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """No catalogue of a user, nothing fetched before, and no switch set."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for switch in ("USE_MODELSCOPE_HUB", "USE_OPENMIND_HUB"):
        monkeypatch.delenv(switch, raising=False)
    model_catalog.cache_clear()
    hubs._fetch.cache_clear()
    yield
    model_catalog.cache_clear()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tiny_model_dir: Path) -> list[dict]:
    """What the stubs of modelscope and openmind_hub are asked for; the answer is the tiny model's folder."""
    calls: list[dict] = []
    for name in ("modelscope", "openmind_hub"):
        stub = ModuleType(name)

        def snapshot_download(place: str, _name: str = name, **arguments: object) -> str:
            calls.append({"hub": _name, "place": place, **arguments})
            if place.startswith("private/") and arguments["token"] is None:
                raise RuntimeError("403:\n forbidden")
            return str(tiny_model_dir)

        stub.snapshot_download = snapshot_download
        monkeypatch.setitem(sys.modules, name, stub)
    return calls


def called(place: str) -> str:
    return hub_name(ModelConfig(model_name_or_path=place))


def test_a_name_or_another_hubs_id_becomes_the_id_of_the_hub_in_use(monkeypatch, tmp_path, capsys):
    assert called("Llama-3.1-8B-Instruct") == called("LLM-Research/Meta-Llama-3.1-8B-Instruct")
    assert called("llama-3.1-8b-instruct") == "meta-llama/Meta-Llama-3.1-8B-Instruct"
    assert "Llama-3.1-8B-Instruct is meta-llama/Meta-Llama-3.1-8B-Instruct on Hugging Face" in capsys.readouterr().err
    assert called("meta-llama/Meta-Llama-3.1-8B") == "meta-llama/Meta-Llama-3.1-8B"
    assert called("nobody/nothing") == "nobody/nothing" and capsys.readouterr().err == ""
    monkeypatch.setenv("USE_MODELSCOPE_HUB", "true")
    assert called("meta-llama/Meta-Llama-3.1-8B") == "LLM-Research/Meta-Llama-3.1-8B"
    assert called("nobody/nothing") == "nobody/nothing"
    assert called("google/codegemma-7b") == "google/codegemma-7b"  # no id there that the catalogue knows: the hub is asked
    with pytest.raises(ModelError, match=r"no id of CodeGemma-7B on ModelScope.*google/codegemma-7b on Hugging Face"):
        called("CodeGemma-7B")
    (tmp_path / "Qwen3-8B-Base").mkdir()
    monkeypatch.chdir(tmp_path)
    assert called("Qwen3-8B-Base") == "Qwen3-8B-Base"  # a folder of that name is that folder


def test_modelscope_is_asked_with_token_and_revision_and_for_weights_only_when_they_are_read(asked, monkeypatch):
    monkeypatch.setenv("USE_MODELSCOPE_HUB", "1")
    model = ModelConfig(model_name_or_path="Qwen3-0.6B-Base", ms_hub_token="ms-1", om_hub_token="om-1", cache_dir="/cache")
    assert load_tokenizer(model).encode("hi")
    assert len(asked) == 1
    assert {key: asked[0][key] for key in ("hub", "place", "revision", "cache_dir", "token")} == {
        "hub": "modelscope", "place": "Qwen/Qwen3-0.6B-Base", "revision": "master", "cache_dir": "/cache", "token": "ms-1",
    }  # fmt: skip
    assert "*.safetensors" in asked[0]["ignore_patterns"]
    assert load_model(model, **CPU).num_parameters() > 0
    assert len(asked) == 2 and "*.safetensors" not in asked[1]["ignore_patterns"] and "*.gguf" in asked[1]["ignore_patterns"]
    load_tokenizer(model)
    assert len(asked) == 2
    settle(model.model_copy(update={"model_revision": "v1"}))
    assert asked[2]["revision"] == "v1"


def test_modelers_has_its_own_switch_token_and_branch(asked, monkeypatch):
    monkeypatch.setenv("USE_OPENMIND_HUB", "1")
    load_tokenizer(ModelConfig(model_name_or_path="Qwen/Qwen2-0.5B-Instruct", ms_hub_token="ms-1", om_hub_token="om-1"))
    assert {key: asked[0][key] for key in ("hub", "place", "revision", "token")} == {
        "hub": "openmind_hub", "place": "LlamaFactory/Qwen2-0.5B-Instruct", "revision": "main", "token": "om-1",
    }  # fmt: skip


def test_a_local_folder_asks_no_hub(asked, monkeypatch, tiny_model_dir):
    monkeypatch.setenv("USE_MODELSCOPE_HUB", "1")
    load_tokenizer(ModelConfig(model_name_or_path=str(tiny_model_dir)))
    assert asked == []


def test_a_hub_that_refuses_or_is_not_installed_says_what_to_do(asked, monkeypatch):
    monkeypatch.setenv("USE_MODELSCOPE_HUB", "1")
    with pytest.raises(ModelError, match=r"private/model cannot be had from ModelScope: 403: forbidden\n.*ms_hub_token"):
        settle(ModelConfig(model_name_or_path="private/model"))
    monkeypatch.setitem(sys.modules, "modelscope", None)
    with pytest.raises(MissingExtra, match=r'a/b, looked for on ModelScope, needs .* pip install "hone-llm\[modelscope\]"'):
        settle(ModelConfig(model_name_or_path="a/b"))
    monkeypatch.delenv("USE_MODELSCOPE_HUB")
    monkeypatch.setenv("USE_OPENMIND_HUB", "1")
    monkeypatch.setitem(sys.modules, "openmind_hub", None)
    with pytest.raises(MissingExtra, match=r"hone-llm\[openmind\]"):
        settle(ModelConfig(model_name_or_path="a/b"))


def test_two_switches_are_a_mistake():
    assert read_environment({})[0].hub == "hf" and read_environment({"USE_OPENMIND_HUB": "Y"})[0].hub == "om"
    _, (mistake,) = read_environment({"USE_MODELSCOPE_HUB": "1", "USE_OPENMIND_HUB": "1"})
    assert mistake.key == "USE_OPENMIND_HUB" and "unset one of them" in mistake.message


def test_tokens_of_hubs_are_settings_and_stay_out_of_files(monkeypatch):
    from hone.config import to_yaml

    words = ["model_name_or_path=m", "output_dir=o", "dataset=d", "ms_hub_token=ms-secret", "om_hub_token=om-secret"]
    run = load(words, "train")
    assert (run.model.ms_hub_token, run.model.om_hub_token) == ("ms-secret", "om-secret")
    assert "secret" not in to_yaml(run) and "secret" not in repr(run)
    monkeypatch.setenv("USE_MODELSCOPE_HUB", "1")
    monkeypatch.setenv("USE_OPENMIND_HUB", "1")
    with pytest.raises(ConfigError, match="unset one of them"):
        load(words, "train")


def test_a_run_from_modelscope_trains_and_its_adapter_names_the_hubs_id(asked, monkeypatch, tiny_run):
    monkeypatch.setenv("USE_MODELSCOPE_HUB", "1")
    settings = {**tiny_run, "model_name_or_path": "Llama-3.2-1B", "finetuning_type": "lora"}
    run = load([f"{key}={value}" for key, value in settings.items()], "train")
    session = prepare(run, settings="")
    assert isinstance(session, Session)
    carry_out(session)
    assert {call["place"] for call in asked} == {"LLM-Research/Llama-3.2-1B"}
    config = (Path(run.train.output_dir) / "adapter_config.json").read_text()
    assert '"base_model_name_or_path": "LLM-Research/Llama-3.2-1B"' in config
