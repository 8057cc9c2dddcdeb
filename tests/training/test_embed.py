"""An embedding model by the command line: it learns which texts answer, loads elsewhere, and never answers itself.

Does not know the loss's formula; tests/objectives does.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from hone import cli
from hone.commands import train
from hone.config import load
from hone.config.adapter import Full
from hone.errors import ModelError
from hone.inference.embed import build_embedder
from tests import worlds
from tests.runs import WORDS, largest_difference, losses_of, weights_of, write_run

KINDS = dict(zip(WORDS[:8], WORDS[8:16], strict=True))
"""A query with the first word is answered by a text with the second."""


def match_rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Each row's query and positive share nothing but a rule; every third row has two negatives of its own."""
    chance, rows, keys = random.Random(seed), [], list(KINDS)
    for number in range(count):
        key = keys[number % len(keys)]
        row = {"query": f"{key} {chance.randrange(100)}", "positive": f"{chance.randrange(100)} {KINDS[key]}"}
        row["negative"] = [f"{chance.randrange(100)} sing", f"sing {chance.randrange(100)}"] if number % 3 == 0 else None
        rows.append(row)
    return rows


@pytest.fixture
def embed_run(tiny_run) -> dict[str, Any]:
    """Flat settings of a run over 24 queries, of which a micro-batch of 8 in order has no answer twice."""
    folder = Path(tiny_run["dataset_dir"])
    columns = {"query": "query", "positive": "positive", "negative": "negative"}
    sets = {"few": match_rows(24, 1), "many": match_rows(160, 2), "held": match_rows(32, 3)}
    sets["bare"] = [{**row, "negative": None} for row in sets["few"]]
    for name, rows in sets.items():
        (folder / f"{name}.json").write_text(json.dumps(rows))
    info = {name: {"file_name": f"{name}.json", "columns": columns} for name in sets}
    (folder / "dataset_info.json").write_text(json.dumps({"rows": {"file_name": "rows.json"}, **info}))
    plain = {key: value for key, value in tiny_run.items() if key != "template"}
    return {**plain, "stage": "embed", "dataset": "few", "per_device_eval_batch_size": 8}


def start(settings: dict[str, Any], tmp_path: Path, **changes: object) -> Path:
    """Train with `changes`; the folder of the model."""
    settings = {**settings, **changes}
    assert train.main([str(write_run(settings, tmp_path / "run.yaml"))]) == 0
    return Path(settings["output_dir"])


def full(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings for training every weight."""
    return {key: value for key, value in settings.items() if not key.startswith("lora")} | {"finetuning_type": "full"}


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_it_learns_which_text_answers_and_transformers_reads_its_vectors(pooling, embed_run, tmp_path):
    changes = {"dataset": "many", "eval_dataset": "held", "eval_strategy": "steps", "eval_steps": 60, "eval_on_start": True}
    changes |= {"max_steps": 60, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "learning_rate": 0.005}
    folder = start(full(embed_run), tmp_path, **changes, embed_pooling=pooling, matryoshka_dims="16,32")
    log = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    accuracy = [line["eval_accuracy"] for line in log if "eval_accuracy" in line]
    assert accuracy[0] < 0.5 and accuracy[-1] > 0.9
    said = json.loads((folder / "1_Pooling" / "config.json").read_text())
    assert said["pooling_mode_lasttoken"] == (pooling == "last") and said["word_embedding_dimension"] == 32
    assert [module["path"] for module in json.loads((folder / "modules.json").read_text())] == ["", "1_Pooling", "2_Normalize"]
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)

    def vector(text: str) -> torch.Tensor:
        with torch.no_grad():
            hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        return torch.nn.functional.normalize(hidden[-1] if pooling == "last" else hidden.mean(0), dim=-1)

    answers = torch.stack([vector(f"7 {word}") for word in KINDS.values()])
    nearest = [int((answers @ vector(f"{word} 3")).argmax()) for word in KINDS]
    assert sum(found == number for number, found in enumerate(nearest)) >= 7


def test_an_adapter_is_merged_into_an_embedding_model_and_none_of_them_chats(embed_run, tmp_path, capsys):
    base = embed_run["model_name_or_path"]
    adapter, merged = start(embed_run, tmp_path, max_steps=2, embed_query_prompt="Query: "), tmp_path / "merged"
    named = [f"model_name_or_path={base}", f"adapter_name_or_path={adapter}"]
    assert cli.main(["export", *named, f"export_dir={merged}"]) == 0
    assert json.loads((merged / "config_sentence_transformers.json").read_text())["prompts"]["query"] == "Query: "
    assert (merged / "1_Pooling" / "config.json").is_file()
    assert cli.main(["chat", *named, "--ask", "Hello"]) == 2
    assert cli.main(["chat", f"model_name_or_path={merged}", "--ask", "Hello"]) == 2
    assert capsys.readouterr().err.count("is an embedding model (stage: embed)") == 2
    texts = ["the quick", "near Paris and five rivers of rain", "dog"]
    runs = [load(arguments, "chat") for arguments in (named, [f"model_name_or_path={merged}"])]
    embedders = [build_embedder(run.model, run.adapter, dtype="float32") for run in runs]
    one, other = (embedder.embed(texts) for embedder in embedders)
    assert torch.allclose(one, other, atol=1e-5) and torch.allclose(one.norm(dim=1), torch.ones(3))
    assert torch.allclose(one[:1], embedders[0].embed(texts[:1]), atol=1e-5)
    assert torch.equal(embedders[0].embed(["dog"], query=True), embedders[0].embed(["Query: dog"]))
    with pytest.raises(ModelError, match="is no embedding model"):
        build_embedder(load([f"model_name_or_path={base}"], "chat").model, Full())
    with pytest.raises(ModelError, match=r"text 0 has .* tokens and the model can hold 512"):
        embedders[0].embed(["a b c d " * 300])


@pytest.mark.slow
def test_two_processes_learn_what_one_does(embed_run, tmp_path):
    """A micro-batch has the same texts to compare on any number of processes."""
    settings = full(embed_run) | {"disable_shuffling": False}
    alone = start(settings, tmp_path, output_dir=str(tmp_path / "alone"))
    two = worlds.on_two({**settings, "gradient_accumulation_steps": 1}, tmp_path / "two")
    # Sums in another order are divided by the temperature, 20 times larger than an SFT run's.
    assert losses_of(two) == pytest.approx(losses_of(alone), abs=1e-4)
    assert largest_difference(weights_of(two), weights_of(alone)) < 1e-3


def test_texts_are_cut_each_by_itself_and_bad_rows_are_told(embed_run, tmp_path, capsys):
    folder = Path(embed_run["dataset_dir"])
    rows = [
        {"query": "a " * 90, "positive": "short", "negative": "b " * 90},
        *({"query": f"{number}", "positive": f"text {number}", "negative": None} for number in range(12)),
        {"query": "same", "positive": "x", "negative": ["x"]},
    ]
    (folder / "few.json").write_text(json.dumps(rows))
    path = write_run({**embed_run, "cutoff_len": 20}, tmp_path / "run.yaml")
    assert cli.main(["check", str(path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert "a text is positive and negative" in json.dumps(report["data"])
    assert report["samples"][0]["tokens"] <= 40 + 8


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"dataset": "rows"}, 2, 'data set "rows" does not say which text answers a query'),
        ({"template": "qwen"}, 2, "has no effect with stage: embed"),
        ({"dataset": "bare", "per_device_train_batch_size": 1}, 2, "there are none; raise it, or name a column of negatives"),
        ({"matryoshka_dims": "8,16", "matryoshka_weights": "1"}, 2, "saw 1 for 2 widths in matryoshka_dims"),
    ],
)
def test_what_cannot_be_meant_is_refused(changes, code, said, embed_run, tmp_path, capsys):
    assert cli.main(["train", str(write_run({**embed_run, **changes}, tmp_path / "run.yaml"))]) == code
    assert said in capsys.readouterr().err
