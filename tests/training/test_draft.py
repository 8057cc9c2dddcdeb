"""What is gathered for a run: training sets are mixed as the settings say, evaluation sets are read once, one after the other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from hone.config import load
from hone.errors import DataError, TemplateError
from hone.training.draft import gather_material
from tests.runs import make_rows, write_run


def test_evaluation_sets_are_not_interleaved_though_they_are_the_training_sets(tiny_run, tmp_path):
    folder = Path(tiny_run["dataset_dir"])
    (folder / "more.json").write_text(json.dumps(make_rows(5)))
    (folder / "dataset_info.json").write_text(
        json.dumps({"rows": {"file_name": "rows.json"}, "more": {"file_name": "more.json"}})
    )
    both = {"dataset": "rows,more", "eval_dataset": "rows,more", "mix_strategy": "interleave_under"}
    material = gather_material(load([str(write_run({**tiny_run, **both}, tmp_path / "run.yaml"))], "train"))
    assert [name for name, _ in map(material.evals[""].origin, range(28))] == ["rows"] * 23 + ["more"] * 5
    assert len(material.tokens) < 28


@pytest.mark.parametrize("kind", ["hf", "ms", "om"])
def test_a_set_of_a_hub_is_asked_for_with_the_token_of_that_hub(kind, tiny_run, tmp_path, monkeypatch):
    entry = {"rows": {f"{kind}_hub_url": "us/rows"}}
    (Path(tiny_run["dataset_dir"]) / "dataset_info.json").write_text(json.dumps(entry))

    def opened(spec, *, streaming, token):
        raise DataError(f"{spec.kind} {spec.place} {token}")

    monkeypatch.setattr("hone.data.build.open_source", opened)
    tokens = {f"{hub}_hub_token": f"{hub}-secret" for hub in ("hf", "ms", "om")}
    with pytest.raises(DataError, match=f"{kind} us/rows {kind}-secret"):
        gather({**tiny_run, **tokens}, tmp_path)


@pytest.fixture
def llama(tiny_run, tmp_path) -> dict:
    """The tiny run's settings over a copy of its model whose folder bears a catalogued name."""
    folder = tmp_path / "Llama-3.2-1B"
    shutil.copytree(tiny_run["model_name_or_path"], folder)
    return {**tiny_run, "model_name_or_path": str(folder)}


def gather(settings: dict, tmp_path: Path):
    return gather_material(load([str(write_run(settings, tmp_path / "run.yaml"))], "train"))


def test_a_forgotten_template_is_named_where_the_tokenizer_carries_none(llama, tmp_path, monkeypatch):
    folder = Path(llama["model_name_or_path"])
    for file in folder.glob("chat_template*"):
        file.unlink()
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(TemplateError, match=r"write template: llama3, the format of this model's family \(for a base"):
        gather(llama, tmp_path)
    monkeypatch.setattr("hone.training.draft.family_template", lambda place: "nonesuch")  # which the table does not have
    with pytest.raises(TemplateError, match=r"write template: NAME \(for a base"):
        gather(llama, tmp_path)


def test_a_forgotten_template_is_named_once_beside_the_tokenizers_own(llama, tiny_run, tmp_path, capsys, monkeypatch):
    material = gather(llama, tmp_path)
    gather(llama, tmp_path)
    said = "that of this model's family is called llama3"
    assert material.codec.template.name == "of the tokenizer" and capsys.readouterr().err.count(said) == 1
    gather({**llama, "template": "chatml"}, tmp_path)
    gather(tiny_run, tmp_path)  # a folder that no family knows
    monkeypatch.setattr("hone.training.draft.family_template", lambda place: "nonesuch")
    gather(llama, tmp_path)
    assert "this model's family" not in capsys.readouterr().err
