"""What is gathered for a run: training sets are mixed as the settings say, evaluation sets are read once, one after the other."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from hone.config import load
from hone.data.files import open_source
from hone.errors import DataError, TemplateError
from hone.training.planning.choose import choose
from hone.training.planning.draft import draft_plan, gather_material, lay_steps
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
    entries = {"rows": {"file_name": "rows.json"}, "theirs": {f"{kind}_hub_url": "us/rows"}}
    (Path(tiny_run["dataset_dir"]) / "dataset_info.json").write_text(json.dumps(entries))

    def opened(spec, *, streaming, token):
        if spec.name == "theirs":
            raise DataError(f"{spec.kind} {spec.place} {token}")
        return open_source(spec, streaming=streaming, token=token)

    monkeypatch.setattr("hone.data.build.open_source", opened)
    tokens = {f"{hub}_hub_token": f"{hub}-secret" for hub in ("hf", "ms", "om")}
    for sets in ({"dataset": "theirs"}, {"dataset": "rows", "eval_dataset": "theirs"}):
        with pytest.raises(DataError, match=f"{kind} us/rows {kind}-secret"):
            gather({**tiny_run, **tokens, **sets}, tmp_path)


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
    monkeypatch.setattr("hone.inference.codec.family_template", lambda place: "nonesuch")  # which the table does not have
    with pytest.raises(TemplateError, match=r"write template: NAME \(for a base"):
        gather(llama, tmp_path)


def test_a_forgotten_template_is_named_once_beside_the_tokenizers_own(llama, tiny_run, tmp_path, capsys, monkeypatch):
    material = gather(llama, tmp_path)
    gather(llama, tmp_path)
    said = "that of this model's family is called llama3"
    assert material.codec.template.name == "of the tokenizer" and capsys.readouterr().err.count(said) == 1
    gather({**llama, "template": "chatml"}, tmp_path)
    gather(tiny_run, tmp_path)  # a folder that no family knows
    monkeypatch.setattr("hone.training.planning.draft.family_template", lambda place: "nonesuch")
    gather(llama, tmp_path)
    assert "this model's family" not in capsys.readouterr().err


def drafted(settings: dict, tmp_path: Path, **changes) -> str:
    """The plan's lines."""
    run = load([str(write_run({**settings, **changes}, tmp_path / "run.yaml"))], "train")
    material, device = gather_material(run), torch.device("cpu")
    choice = choose(run, material.objective, material.tokens, device=device, world=1)
    return "\n".join(draft_plan(run, material, lay_steps(run, material, 1), choice, device=device, world=1).lines())


def test_a_plan_says_when_it_evaluates_and_what_would_never_be(tiny_run, tmp_path):
    held = {"val_size": 3}
    assert "3 sequences that are never evaluated: write eval_strategy, or do_eval: true" in drafted(tiny_run, tmp_path, **held)
    once = drafted(tiny_run, tmp_path, **held, do_eval=True, eval_on_start=True)
    assert "3 sequences to evaluate" in once and "evaluate before the first step, at the end;" in once
    often = drafted(tiny_run, tmp_path, **held, eval_strategy="steps", eval_steps=4)
    assert "3 sequences to evaluate" in often and "evaluate every 4 steps;" in often
    assert "0 sequences to evaluate" in drafted(tiny_run, tmp_path)


def test_one_unit_stands_in_all_lines_and_every_adapter_has_its_own(tiny_run, tmp_path):
    changes = {"finetuning_type": "oft", "oft_target": "all", "oft_block_size": 8, "lora_target": None}
    settings = {key: value for key, value in (tiny_run | changes).items() if value is not None}
    said = drafted(settings, tmp_path)
    lines = said[said.index("memory ") : said.index("output ")]
    assert re.search(r"\n +adapters +under 0\.0?1 [MG]iB", lines)
    units = re.findall(r"[MG]iB", lines)  # GiB where the tests before this one have made the process large
    assert len(set(units)) == 1 and len(units) > 7


def test_what_is_wrong_with_evaluation_data_is_told_of_their_key(tiny_run, tmp_path):
    entry = {"file_name": "rows.json", "ranking": True, "columns": {"prompt": "instruction", "chosen": "a", "rejected": "b"}}
    catalog = {"rows": {"file_name": "rows.json"}, "pairs": entry}
    (Path(tiny_run["dataset_dir"]) / "dataset_info.json").write_text(json.dumps(catalog))
    with pytest.raises(DataError, match=r"^eval_dataset: .*pairs"):
        gather({**tiny_run, "eval_dataset": "pairs", "eval_strategy": "no"}, tmp_path)
