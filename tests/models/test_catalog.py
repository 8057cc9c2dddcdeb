"""The catalogue of models: its counts and facts, what is found in it, the user's own file."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from hone.chat.table import rows
from hone.errors import ConfigError
from hone.models.catalog import HUBS, MEDIA, ModelCatalog, billions_in, family_template, model_catalog, read_groups

TEMPLATES = """
aeva alpaca bailing bailing_v2 breeze chatglm3 chatml chatml_de cohere cpm4 dbrx deepseek deepseek3 deepseekcoder deepseekr1
default dots_ocr empty ernie ernie_nothink ernie_vl exaone falcon falcon_h1 fewshot gemma gemma2 gemma3 gemma3n gemma4 gemma4n
glm4 glm4_5v glm4_7 glm4_moe glm4v glm_ocr glmz1 gpt_oss granite3 granite3_vision granite4 hunyuan hunyuan_small hy3
hy_dense_1_8b hy_dense_7b index intern2 intern_s1 intern_vl keye_vl kimi_vl lfm2 lfm2_vl llama2 llama2_zh llama3 llama4 llava
llava_next llava_next_llama3 llava_next_mistral llava_next_qwen llava_next_video llava_next_video_mistral llava_next_video_yi
llava_next_yi mimo mimo_v2 mimo_vl minicpm_o minicpm_v minicpm_v_4_6 minimax1 minimax2 ministral ministral3 mistral
mistral_small mllama moonlight moss_vl olmo openchat openchat-3.6 opencoder paligemma paligemma_chat phi phi4 phi4_mini
phi_small pixtral qwen qwen2_audio qwen2_omni qwen2_vl qwen3 qwen3_5 qwen3_5_nothink qwen3_6 qwen3_nothink qwen3_omni
qwen3_omni_nothink qwen3_vl qwen3_vl_nothink sailor seed_coder seed_oss smollm smollm2 solar starchat telechat2 vicuna
video_llava xuanyuan yi yi_vl youtu youtu_vl yuan zephyr
""".split()
"""Every template name of LLaMA-Factory (August 2026)."""


@pytest.fixture(autouse=True)
def users_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The place of the user's file in an empty home; the catalogue is read anew."""
    monkeypatch.setenv("HOME", str(tmp_path))
    model_catalog.cache_clear()
    file = tmp_path / ".config" / "hone" / "catalog.toml"
    file.parent.mkdir(parents=True)
    yield file
    model_catalog.cache_clear()


def test_it_has_every_group_and_model_of_llama_factory():
    groups = model_catalog().groups
    entries = [entry for group in groups for entry in group.models]
    assert (len(groups), len(entries), len({entry.name for entry in entries})) == (131, 635, 634)
    assert {hub: sum(hub in entry.ids for entry in entries) for hub in HUBS} == {"hf": 635, "ms": 603, "om": 21}
    assert (sum(bool(group.template) for group in groups), sum(bool(group.media) for group in groups)) == (124, 48)
    assert sum(len(group.models) for group in groups if group.media) == 174


def test_templates_are_names_of_llama_factory_and_of_the_table():
    named = {group.template for group in model_catalog().groups if group.template}
    assert len(TEMPLATES) == 124 and named <= set(TEMPLATES)
    if set(TEMPLATES) <= set(rows()):  # the table has them all: from then on a name that it lacks is a slip of the pen
        assert named <= set(rows())


def test_no_id_stands_for_two_models():
    for hub in HUBS:
        ids = Counter(entry.ids[hub].lower() for group in model_catalog().groups for entry in group.models if hub in entry.ids)
        assert {name for name, count in ids.items() if count > 1} <= {"google/medgemma-27b-text-it"}  # in two groups
    for group in model_catalog().groups:
        assert set(group.media) <= set(MEDIA)
        assert all("/" in place and place == place.strip() for entry in group.models for place in entry.ids.values())


def test_sizes_are_read_from_names():
    names = (
        "Llama-3.1-8B-Instruct",
        "BLOOM-7B1",
        "SmolLM2-135M",
        "Qwen2.5-7B-Instruct-1M",
        "Kimi-VL-A3B-Thinking",
        "Big-2.4T-A95B",
    )
    assert [billions_in(name) for name in names] == [8, 7.1, 0.135, 7, None, 2400]
    assert model_catalog().find("Mixtral-8x7B-v0.1").billions == 46.7  # its name has no size of all weights


@pytest.mark.parametrize(
    ("place", "template"),
    [
        ("Llama-3.1-8B-Instruct", "llama3"),
        ("meta-llama/Meta-Llama-3.1-8B", "llama3"),
        ("llm-research/meta-llama-3.1-8b", "llama3"),
        ("unsloth/Qwen2.5-7B", "qwen"),
        ("google/medgemma-27b-text-it", "gemma2"),
        ("bigscience/bloom-560m", ""),
        ("nobody/nothing", ""),
    ],
)
def test_a_name_an_id_or_another_owners_copy_has_its_familys_template(place: str, template: str):
    assert family_template(place) == template


def test_a_folder_belongs_where_its_config_or_its_name_says(tmp_path: Path):
    folder = tmp_path / "mine"
    folder.mkdir()
    assert family_template(str(folder)) == ""
    (folder / "config.json").write_text(json.dumps({"_name_or_path": "/data/hub/Qwen3-8B-Base"}))
    assert family_template(str(folder)) == "qwen3"
    (folder / "config.json").write_text("{")
    assert family_template(str(folder)) == ""
    assert family_template(str(folder.rename(tmp_path / "Yi-6B-Chat"))) == "yi"


def test_every_word_must_be_found():
    catalog = model_catalog()
    found = {entry.name for group in catalog.search(["LLAMA3", "3.1-8b", "instruct"]) for entry in group.models}
    assert found == {"Llama-3.1-8B-Instruct"}
    assert [group.name for group in catalog.search(["modelscope/zephyr"])] == ["Zephyr"]  # an id on another hub
    assert sum(len(group.models) for group in catalog.search(["Kimi-VL"])) == 3  # a group's name stands for its models
    assert list(catalog.search(["llama3", "qwen9"])) == []


def test_the_users_file_adds_groups_and_models_and_comes_first(users_file: Path):
    users_file.write_text(
        '[House]\ntemplate = "qwen"\nmedia = ["image"]\n[House.models]\n"House-3B" = { hf = "us/house-3b" }\n'
        '["llama-3".models]\n"Llama-3-Ours" = { ms = "us/llama", billions = 9 }\n"Llama-3-8B" = { hf = "us/llama-3-8b" }\n'
    )
    catalog = model_catalog()
    assert len(catalog.groups) == 132 and catalog.family("us/house-3b").media == ("image",)
    assert catalog.find("House-3B").billions == 3 and catalog.find("us/llama").billions == 9
    assert catalog.find("Llama-3-8B").ids == {"hf": "us/llama-3-8b"}
    assert catalog.family("us/llama").template == "llama3" and len(catalog.family("us/llama").models) == 20


def test_every_mistake_of_the_users_file_is_told_at_once(users_file: Path):
    users_file.write_text(
        'House = "qwen"\n[Home]\ntemplat = "qwen"\nthinking = 1\nmedia = ["smell"]\n'
        '[Home.models]\na = "us/a"\nb = { billions = true }\nc = { hf = 3, hg = "x" }\n'
    )
    with pytest.raises(ConfigError) as caught:
        model_catalog()
    assert {mistake.where for mistake in caught.value.mistakes} == {str(users_file)}
    assert [mistake.key for mistake in caught.value.mistakes] == [
        "House", "Home.templat", "Home.thinking", "Home.media", "Home.models.a", "Home.models.b.billions", "Home.models.b",
        "Home.models.c.hf", "Home.models.c.hg",
    ]  # fmt: skip
    assert 'did you mean "template"' in str(caught.value) and "saw 'smell', wanted some of image, video, audio" in str(
        caught.value
    )
    users_file.write_text("[House\n")
    with pytest.raises(ConfigError, match=r"catalog\.toml: broken TOML: .*line 1"):
        model_catalog()


def test_the_example_of_the_docs_is_a_catalogue():
    page = (Path(__file__).resolve().parents[2] / "docs" / "hubs.md").read_text(encoding="utf-8")
    house, llama = read_groups(page.split("```toml\n")[1].split("```")[0], "docs/hubs.md")
    assert [entry.billions for entry in house.models] == [3, 46.7] and llama.models[0].name == "Llama-3-8B-Ours"


def test_a_catalogue_of_nothing_but_a_group_is_read():
    assert ModelCatalog(tuple(read_groups("[New]", "x"))).groups[0].models == ()
