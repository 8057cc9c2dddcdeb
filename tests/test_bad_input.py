"""Bad input, as a user meets it: through the command line, with the message it gives and without a traceback."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import LlamaConfig, LlamaForCausalLM

from hone import cli


@pytest.fixture
def settings(tiny_run: dict[str, Any]) -> dict[str, Any]:
    """A run of one step that would work, for each test to spoil."""
    return {**tiny_run, "max_steps": 1, "warmup_steps": 0}


def refused(settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], *pattern: str) -> None:
    """`hone train` exits with 2, prints every pattern and no traceback, and writes nothing where the model would go."""
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(settings))
    assert cli.main(["train", str(path)]) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    for wanted in pattern:
        assert re.search(wanted, said, re.S), f"{wanted!r} is not in:\n{said}"
    assert not (Path(settings["output_dir"]) / "adapter_model.safetensors").exists()


def rewrite(settings: dict[str, Any], rows: object, *, entry: dict[str, Any] | None = None, name: str = "rows.json") -> None:
    folder = Path(settings["dataset_dir"])
    (folder / name).write_text(rows if isinstance(rows, str) else json.dumps(rows))
    (folder / "dataset_info.json").write_text(json.dumps({"rows": {"file_name": name, **(entry or {})}}))


def test_a_misspelt_key_and_all_other_mistakes_at_once(settings, tmp_path, capsys):
    wrong = {**settings, "lerning_rate": 1e-4, "cutoff_len": "many", "double_quantization": False, "stage": "sfft"}
    refused(
        wrong,
        tmp_path,
        capsys,
        r"4 mistakes",
        r"run\.yaml:\d+: lerning_rate: .*learning_rate",
        r"cutoff_len: .*many",
        r"double_quantization: .*quantization_bit",
        r"stage: .*sfft.*sft",
    )


def test_a_missing_settings_file(tmp_path, capsys):
    assert cli.main(["train", str(tmp_path / "nowhere.yaml")]) == 2
    assert "nowhere.yaml" in capsys.readouterr().err


def test_a_missing_model(settings, tmp_path, capsys):
    refused(
        {**settings, "model_name_or_path": str(tmp_path / "no_model")},
        tmp_path,
        capsys,
        r"no_model does not exist; name a folder .* or an id on the hub",
    )


def test_a_missing_data_file(settings, tmp_path, capsys):
    (Path(settings["dataset_dir"]) / "rows.json").unlink()
    refused(settings, tmp_path, capsys, r'data set "rows": there is no file .*rows\.json')


def test_a_missing_list_of_data_sets(settings, tmp_path, capsys):
    (Path(settings["dataset_dir"]) / "dataset_info.json").unlink()
    refused(settings, tmp_path, capsys, r'no .*/data/dataset_info\.json .*"rows".*dataset_dir.* the path of a file')


def test_a_data_set_that_is_not_defined(settings, tmp_path, capsys):
    refused({**settings, "dataset": "row"}, tmp_path, capsys, r'"?row"?.*did you mean "rows"')


@pytest.mark.parametrize(
    ("name", "text"),
    [("rows.json", '[\n{"instruction": "a", "output": "b"},\n{"instruction": \n]'), ("rows.jsonl", '{"a": 1}\n{"b":\n')],
)
def test_broken_json_is_told_with_its_line(name, text, settings, tmp_path, capsys):
    rewrite(settings, text, name=name)
    refused(settings, tmp_path, capsys, r"rows.*broken JSON at line [234]|rows\.json.*line [234]")


def test_wrong_columns(settings, tmp_path, capsys):
    rewrite(settings, [{"question": "a", "answer": "b"}] * 5)
    refused(
        settings,
        tmp_path,
        capsys,
        r'refused 5: no column "output".*the row has question, answer; name it: "columns": \{"response": NAME, ...\}',
    )


def test_empty_answers(settings, tmp_path, capsys):
    rewrite(settings, [{"instruction": f"Say {n}", "output": ""} for n in range(5)])
    refused(settings, tmp_path, capsys, r"rows: 5 rows read, 0 kept", r"refused 5: empty answer: row 0, row 1", r"max_bad_rows")


def test_odd_roles(settings, tmp_path, capsys):
    rows = [{"conversations": [{"from": "human", "value": "hi"}, {"from": "robot", "value": "ho"}]}] * 5
    rewrite(settings, rows, entry={"formatting": "sharegpt"})
    refused(settings, tmp_path, capsys, r"refused 5: unknown role 'robot': row 0 \(known: human, gpt.*`tags`")


def test_an_unknown_template(settings, tmp_path, capsys):
    refused(
        {**settings, "template": "lama3"},
        tmp_path,
        capsys,
        r'unknown template "lama3" \(did you mean "llama3"\?\)',
    )


def test_a_row_longer_than_the_cutoff_where_that_is_an_error(settings, tmp_path, capsys):
    refused(
        {**settings, "cutoff_len": 16, "overlong": "error"},
        tmp_path,
        capsys,
        r"rows, row 0: .*27 tokens, cutoff_len is 16.*raise",
    )


def test_rows_longer_than_the_cutoff_that_are_dropped_or_cannot_be_cut(settings, tmp_path, capsys):
    refused({**settings, "cutoff_len": 8, "overlong": "drop"}, tmp_path, capsys, r"23 dropped as too long.*larger cutoff_len")
    words = r"cannot be cut to cutoff_len: row 0 \(the template's own tokens alone are 11, and cutoff_len is 8: raise it\)"
    refused({**settings, "cutoff_len": 8}, tmp_path, capsys, words)


def test_an_adapter_of_another_base(settings, tmp_path, capsys, tiny_tokenizer):
    assert cli.main(["train", *(f"{key}={value}" for key, value in settings.items())]) == 0
    config = LlamaConfig(
        vocab_size=len(tiny_tokenizer), hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "other")
    tiny_tokenizer.save_pretrained(tmp_path / "other")
    again = {**settings, "model_name_or_path": str(tmp_path / "other"), "adapter_name_or_path": settings["output_dir"]}
    again |= {"output_dir": str(tmp_path / "again"), "export_dir": str(tmp_path / "merged")}
    words = r"out was trained on .*tiny_model.* does not fit .*other: .*48 wide there and 32.*model_name_or_path"
    refused(again, tmp_path, capsys, words)
    assert cli.main(["chat", str(tmp_path / "run.yaml"), "--ask", "hi"]) == 2
    assert re.search(words, capsys.readouterr().err)
    assert cli.main(["export", str(tmp_path / "run.yaml")]) == 2
    assert re.search(r"another base .*tiny_model.*; name it under model_name_or_path", capsys.readouterr().err)


def test_an_unreadable_adapter(settings, tmp_path, capsys):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "adapter_config.json").write_text("{")
    refused(
        {**settings, "adapter_name_or_path": str(tmp_path / "broken")},
        tmp_path,
        capsys,
        r"broken/adapter_config\.json cannot be read: .*line 1",
    )


def test_an_unreadable_checkpoint(settings, tmp_path, capsys):
    folder = tmp_path / "out" / "checkpoint-3"
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(b"")
    refused(settings, tmp_path, capsys, r"checkpoint-3 is named like a checkpoint and holds none")
    (folder / "trainer_state.json").write_text("{}")
    refused(settings, tmp_path, capsys, r"checkpoint-3.*not written to its end", r"overwrite_output_dir")
    shutil.rmtree(folder)


@pytest.mark.parametrize(("strategy", "what"), [("no", "the model of disk/out"), ("steps", "disk/out/checkpoint-1")])
def test_a_disk_that_is_full_when_saving(strategy, what, settings, tmp_path, capsys):
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("mounting a small tmpfs needs root; runs in CI")
    try:
        full = {**settings, "output_dir": str(disk / "out"), "save_strategy": strategy} | (
            {"save_steps": 1} if strategy == "steps" else {}
        )
        seen = what.replace("disk", re.escape(str(disk)))
        refused(full, tmp_path, capsys, rf"{seen} could not be saved: .*No space left.*free space or write elsewhere")
        assert not [path for path in (disk / "out").rglob("*") if "writing" in path.name]
    finally:
        subprocess.run(["umount", str(disk)], check=True)
