"""Tests of the catalog: what an entry of dataset_info.json means, and which entries are refused."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from hone.data.catalog import OPENAI_TAGS, Columns, Tags, load_catalog
from hone.errors import DataError


def find(entry: dict, name: str = "toy"):
    return load_catalog({name: entry}).find(name)


def test_an_entry_without_columns_has_the_defaults():
    spec = find({"file_name": "rows.json"})
    assert (spec.columns, spec.tags, spec.shape, spec.split) == (Columns(), Tags(), "alpaca", "train")
    assert spec.columns.prompt == "instruction" and spec.columns.history is None


def test_columns_switch_off_what_they_do_not_name():
    spec = find({"file_name": "rows.json", "columns": {"prompt": "question", "response": "answer"}})
    assert (spec.columns.prompt, spec.columns.response) == ("question", "answer")
    assert spec.columns.query is None and spec.columns.messages is None
    assert spec.tags == Tags()  # only what was given is reset


def test_tags_switch_off_what_they_do_not_name():
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    spec = find({"file_name": "rows.json", "formatting": "sharegpt", "tags": tags})
    assert spec.tags == Tags(**tags, observation_tag=None, function_tag=None, system_tag=None)


def test_openai_sets_without_tags_use_openai_words():
    assert find({"file_name": "rows.json", "formatting": "openai"}).tags == OPENAI_TAGS


def test_a_hub_key_wins_over_a_file():
    spec = find(
        {"hf_hub_url": "some/where", "file_name": "rows.json", "script_url": "loader", "cloud_file_name": "s3://a/b.json"}
    )
    assert (spec.kind, spec.place) == ("hf", "some/where")


@pytest.mark.parametrize(
    ("switch", "entry", "chosen"),
    [
        ("", {"hf_hub_url": "h/a", "ms_hub_url": "m/a"}, ("hf", "h/a")),
        ("", {"ms_hub_url": "m/a", "om_hub_url": "o/a", "file_name": "x.json"}, ("ms", "m/a")),
        ("", {"om_hub_url": "o/a"}, ("om", "o/a")),
        ("USE_MODELSCOPE_HUB", {"hf_hub_url": "h/a", "ms_hub_url": "m/a", "om_hub_url": "o/a"}, ("ms", "m/a")),
        ("USE_MODELSCOPE_HUB", {"hf_hub_url": "h/a", "om_hub_url": "o/a"}, ("hf", "h/a")),
        ("USE_OPENMIND_HUB", {"hf_hub_url": "h/a", "ms_hub_url": "m/a", "om_hub_url": "o/a"}, ("om", "o/a")),
    ],
)
def test_the_hub_in_use_wins_then_hugging_face(switch, entry, chosen, monkeypatch):
    if switch:
        monkeypatch.setenv(switch, "1")
    spec = find(entry)
    assert (spec.kind, spec.place) == chosen


def test_a_cloud_file_wins_over_a_file():
    assert find({"cloud_file_name": "s3://a/b.jsonl", "file_name": "rows.json"}).kind == "cloud"


def test_file_names_are_relative_to_the_catalog(tmp_path):
    (tmp_path / "dataset_info.json").write_text('{"toy": {"file_name": "sub/rows.json"}}', encoding="utf-8")
    assert load_catalog(str(tmp_path)).find("toy").place == str(tmp_path / "sub" / "rows.json")


def test_online_takes_every_name_for_a_hub_id():
    spec = load_catalog("ONLINE").find("some/where")
    assert (spec.kind, spec.place, spec.columns) == ("hf", "some/where", Columns())


def test_online_is_the_hub_in_use(monkeypatch):
    monkeypatch.setenv("USE_MODELSCOPE_HUB", "1")
    assert load_catalog("ONLINE").find("some/where").kind == "ms"


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"script_url": "loader"}, "script_url runs a script"),
        ({}, "nowhere"),
        ({"file_nam": "x.json", "hf_hub_url": "a/b"}, 'did you mean "file_name"'),
        ({"file_name": "x.json", "formatting": "sharegtp"}, 'did you mean "sharegpt"'),
        ({"file_name": "x.json", "columns": {"promt": "q"}}, 'did you mean "prompt"'),
        ({"file_name": "x.json", "columns": {"prompt": 3}}, "columns.prompt: wanted a name, seen 3"),
        ({"file_name": "x.json", "tags": ["a"]}, "wanted an object, seen list"),
        ({"file_name": "x.json", "num_samples": "ten"}, "num_samples is 'ten'; wanted int"),
        ({"file_name": "x.json", "num_samples": 0}, "wanted 1 or more"),
        ("x.json", "wanted an object, seen str"),
    ],
)
def test_a_wrong_entry_is_refused(entry, said):
    with pytest.raises(DataError, match=said) as caught:
        find(entry)
    assert '"toy"' in str(caught.value)


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(DataError, match=r'"alpaca_dem" is not defined .*did you mean "alpaca_demo"'):
        load_catalog({"alpaca_demo": {"file_name": "x.json"}}).find("alpaca_dem")


def test_an_old_checksum_key_is_named_and_has_no_effect(capsys):
    find({"file_name": "x.json", "file_sha1": "abc"}, name="with_checksum")
    assert 'the key "file_sha1" has no meaning here' in capsys.readouterr().err


def test_a_broken_catalog_names_the_line(tmp_path):
    (tmp_path / "dataset_info.json").write_text('{"toy": {\n"file_name": }\n}', encoding="utf-8")
    with pytest.raises(DataError, match=r"dataset_info.json: broken JSON at line 2"):
        load_catalog(str(tmp_path))


def test_chinese_names_are_read_as_utf8(tmp_path):
    (tmp_path / "dataset_info.json").write_bytes('\ufeff{"数据": {"file_name": "数据.json"}}'.encode())
    assert load_catalog(str(tmp_path)).find("数据").place.endswith("数据.json")


def test_every_entry_llamafactory_ships_is_understood(shared, monkeypatch):
    names = json.loads((shared / "llamafactory" / "dataset_info.json").read_text(encoding="utf-8"))

    def kinds() -> Counter[str]:
        catalog = load_catalog(str(shared / "llamafactory"))
        return Counter(catalog.find(name).kind for name in names)

    assert kinds() == {"file": 14, "hf": 89, "ms": 1}
    monkeypatch.setenv("USE_MODELSCOPE_HUB", "1")
    assert kinds() == {"file": 14, "hf": 53, "ms": 37}
