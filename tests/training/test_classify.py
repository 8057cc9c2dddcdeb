"""Classifiers and rerankers by the command line: learned, continued, exported, and read by plain transformers and plain PEFT.

Does not know the losses' formulas; tests/objectives does.
"""

from __future__ import annotations

import json
import math
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, pipeline

from hone import cli
from hone.commands import train
from hone.config import load
from hone.config.adapter import Full
from hone.errors import ModelError
from hone.inference.classify import build_classifier, build_reranker
from tests import worlds
from tests.runs import WORDS, largest_difference, losses_of, weights_of, write_run
from tests.training.test_embed import KINDS, match_rows

SIGNS = {"glad": "Gladly", "rude": "Nonsense", "blue": "Blue"}
METHODS: dict[str, dict[str, Any]] = {
    "full": {"finetuning_type": "full"},
    "freeze": {"finetuning_type": "freeze", "freeze_trainable_layers": 2},
    "lora": {"finetuning_type": "lora"},
    "qlora": {"finetuning_type": "lora", "quantization_bit": 4},
}


def letters(count: int, seed: int) -> list[dict[str, Any]]:
    """Texts of uneven length with one word of their class in them, and its number of letters as a number."""
    chance, rows = random.Random(seed), []
    for _ in range(count):
        kind = chance.choice(list(SIGNS))
        words = chance.choices(WORDS, k=chance.randrange(2, 9))
        words.insert(chance.randrange(len(words)), SIGNS[kind])
        rows.append({"text": " ".join(words), "kind": kind, "size": len(SIGNS[kind]) / 4})
    return rows


@pytest.fixture
def classify_run(tiny_run) -> dict[str, Any]:
    """Flat settings of a run over 24 texts of three classes."""
    folder = Path(tiny_run["dataset_dir"])
    sets = {"few": letters(24, 1), "many": letters(160, 2), "held": letters(40, 3)}
    sets["strange"] = [*letters(3, 4), {"text": "a fox", "kind": "green"}]
    sets["alike"] = [{"text": word, "kind": "glad"} for word in WORDS]
    sets["match"] = match_rows(24, 1)
    columns = {"prompt": "text", "label": "kind"}
    info: dict[str, Any] = {name: {"file_name": f"{name}.json", "columns": columns} for name in sets}
    info |= {"size": {"file_name": "many.json", "columns": {"prompt": "text", "label": "size"}}}
    info |= {"wrong": {"file_name": "few.json", "columns": {"prompt": "text", "label": "Kind"}}}
    info |= {"match": {"file_name": "match.json", "columns": {"query": "query", "positive": "positive", "negative": "negative"}}}
    for name, rows in sets.items():
        (folder / f"{name}.json").write_text(json.dumps(rows))
    (folder / "dataset_info.json").write_text(json.dumps({"rows": {"file_name": "rows.json"}, **info}))
    plain = {key: value for key, value in tiny_run.items() if key != "template"}
    return {**plain, "stage": "classify", "dataset": "few"}


def of_method(settings: dict[str, Any], method: str) -> dict[str, Any]:
    kept = settings if "lora" in method else {key: value for key, value in settings.items() if not key.startswith("lora")}
    return {**kept, **METHODS[method]}


def start(settings: dict[str, Any], tmp_path: Path, **changes: object) -> Path:
    """Train with `changes`; the folder of the model."""
    settings = {**settings, **changes}
    assert train.main([str(write_run(settings, tmp_path / "run.yaml"))]) == 0
    return Path(settings["output_dir"])


def plain_scores(model: torch.nn.Module, tokenizer: Any, texts: list[str]) -> torch.Tensor:
    """Those of transformers by itself, padded on the side where the tokenizer pads."""
    with torch.no_grad():
        return model.eval()(**tokenizer(texts, return_tensors="pt", padding=True)).logits


@pytest.mark.parametrize("method", ["full", "lora"])
def test_it_learns_classes_and_transformers_reads_the_same(method, classify_run, tmp_path, capsys):
    changes = {"dataset": "many", "eval_dataset": "held", "eval_strategy": "steps", "eval_steps": 60, "eval_on_start": True}
    changes |= {"max_steps": 60, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1}
    folder = start(of_method(classify_run, method), tmp_path, **changes)
    log = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    for name in ("eval_accuracy", "eval_f1"):
        told = [line[name] for line in log if name in line]
        assert told[0] < 0.7 and told[-1] > 0.95
    base, texts = classify_run["model_name_or_path"], [row["text"] for row in letters(6, 5)]
    named = [f"model_name_or_path={base if method == 'lora' else folder}"]
    named += [f"adapter_name_or_path={folder}"] if method == "lora" else []
    run = load(named, "chat")
    classifier = build_classifier(run.model, run.adapter, dtype="float32")
    assert classifier.head.labels == ("blue", "glad", "rude")
    scores = classifier.scores(texts)
    assert torch.allclose(scores[:1], classifier.scores(texts[:1]), atol=1e-5), "alone and among others"
    merged = tmp_path / "merged"
    assert cli.main(["export", *named, f"export_dir={merged}"]) == 0
    report = json.loads((merged / "export_report.json").read_text())
    assert report["parity"]["passed"] and ("score.weight" in weights_of(merged)) and "lm_head.weight" not in weights_of(merged)
    tokenizer = AutoTokenizer.from_pretrained(merged)
    model = AutoModelForSequenceClassification.from_pretrained(merged)
    assert type(model).__name__ in json.loads((merged / "config.json").read_text())["architectures"]
    assert torch.allclose(plain_scores(model, tokenizer, texts), scores, atol=1e-4)
    served = pipeline("text-classification", model=str(merged), device="cpu", top_k=None)(texts[:1])[0]
    assert {one["label"]: one["score"] for one in served} == pytest.approx(classifier.classify(texts[:1])[0], abs=1e-4)
    if method == "lora":
        bare = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)
        bare.config.pad_token_id = tokenizer.pad_token_id
        assert torch.allclose(plain_scores(PeftModel.from_pretrained(bare, folder), tokenizer, texts), scores, atol=1e-4)
        said = json.loads((folder / "adapter_config.json").read_text())
        assert said["task_type"] == "SEQ_CLS" and said["modules_to_save"] == ["score"] and "score" not in said["target_modules"]
    for wrong in (named, [f"model_name_or_path={merged}"]):
        assert cli.main(["chat", *wrong, "--ask", "Hello"]) == 2
    assert capsys.readouterr().err.count("is a classifier (stage: classify)") == 2


@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_run_is_the_straight_one(method, classify_run, tmp_path):
    settings = {**of_method(classify_run, method), "save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    straight = start(settings, tmp_path, output_dir=str(tmp_path / "straight"))
    shutil.copytree(straight / "checkpoint-2", tmp_path / "resumed" / "checkpoint-2")
    resumed = start(settings, tmp_path, output_dir=str(tmp_path / "resumed"))
    assert largest_difference(weights_of(resumed), weights_of(straight)) == 0.0
    moved = {name: weight for name, weight in weights_of(straight).items() if name.endswith("score.weight")}
    before = {name: weights_of(straight / "checkpoint-2")[name] for name in moved}
    assert moved and largest_difference(moved, before) > 0


@pytest.mark.parametrize(("stage", "dataset"), [("classify", "few"), ("rerank", "match")])
def test_micro_batches_packing_and_padding_change_nothing(stage, dataset, classify_run, tmp_path, monkeypatch):
    settings, folders = {**classify_run, "stage": stage, "dataset": dataset, "max_bad_rows": 1, "max_steps": 4}, []
    for micro in (4, 1, 2):
        if micro == 2:
            monkeypatch.setattr("hone.training.makers.Policy.can_pack", property(lambda _: False, lambda *_: None), raising=False)
        changes = {"per_device_train_batch_size": micro, "gradient_accumulation_steps": 4 // micro}
        folders.append(start(settings, tmp_path, output_dir=str(tmp_path / f"of_{micro}"), **changes))
    for other in folders[1:]:
        assert losses_of(other) == pytest.approx(losses_of(folders[0]), abs=1e-5)
        assert largest_difference(weights_of(other), weights_of(folders[0])) < 2e-5


@pytest.mark.parametrize("method", ["full", "lora"])
def test_training_goes_on_from_a_classifier_with_its_classes(method, classify_run, tmp_path, capsys):
    settings = of_method(classify_run, method)
    first = start(settings, tmp_path, max_steps=3, class_names="rude,blue,glad", output_dir=str(tmp_path / "first"))
    named = {"adapter_name_or_path" if method == "lora" else "model_name_or_path": str(first)}
    # A rate too small to move anything: what is written is what was read.
    still = {"max_steps": 1, "warmup_steps": 0, "learning_rate": 1e-20}
    second = start(settings, tmp_path, output_dir=str(tmp_path / "second"), **still, **named)
    assert largest_difference(weights_of(first), weights_of(second)) == 0.0
    told = json.loads((second / ("score_head.json" if method == "lora" else "config.json")).read_text())
    assert list(told["id2label"].values()) == ["rude", "blue", "glad"]
    judged = {**settings, **named, "do_train": False, "do_eval": True, "eval_dataset": "held", "output_dir": str(tmp_path / "j")}
    assert cli.main(["train", str(write_run(judged, tmp_path / "judged.yaml"))]) == 0
    run = write_run({**settings, "do_train": False, "do_eval": True, "eval_dataset": "held"}, tmp_path / "none.yaml")
    assert cli.main(["train", str(run)]) == 2
    assert "there is no head that scores texts to evaluate" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora"])
def test_two_processes_learn_what_one_does(method, classify_run, tmp_path):
    settings = of_method(classify_run, method)
    alone = start(settings, tmp_path, output_dir=str(tmp_path / "alone"))
    two = worlds.on_two({**settings, "gradient_accumulation_steps": 1}, tmp_path / "two")
    assert losses_of(two) == pytest.approx(losses_of(alone), abs=1e-5)
    assert largest_difference(weights_of(two), weights_of(alone)) < 2e-5


def test_numbers_are_learned(classify_run, tmp_path):
    changes = {"dataset": "size", "label_kind": "number", "max_steps": 60, "per_device_train_batch_size": 8}
    folder = start(of_method(classify_run, "full"), tmp_path, **changes, gradient_accumulation_steps=1, learning_rate=0.005)
    losses = losses_of(folder)
    assert losses[-1] < losses[0] / 10
    assert json.loads((folder / "config.json").read_text())["problem_type"] == "regression"
    run = load([f"model_name_or_path={folder}"], "chat")
    (told,) = build_classifier(run.model, run.adapter).classify(["the fox Nonsense"])
    assert told["number"] == pytest.approx(2, abs=0.7)


@pytest.mark.parametrize("loss", ["listwise", "pointwise"])
def test_a_reranker_learns_which_text_answers(loss, classify_run, tmp_path):
    folder = Path(classify_run["dataset_dir"])
    rows = match_rows(160, 2)
    for number, row in enumerate(rows):
        row["negative"] = [f"{number % 9} {word}" for word in random.Random(number).sample(list(KINDS.values()), 3)]
        row["negative"] = [text for text in row["negative"] if text.split()[1] != row["positive"].split()[1]]
    (folder / "match.json").write_text(json.dumps(rows))
    changes = {"stage": "rerank", "dataset": "match", "rerank_loss": loss, "rerank_text": "{query} : {document}", "max_steps": 90}
    changes |= {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "val_size": 32, "learning_rate": 0.01}
    changes |= {"eval_strategy": "steps", "eval_steps": 90, "eval_on_start": True}
    adapter = start(classify_run, tmp_path, **changes)
    log = json.loads((adapter / "trainer_state.json").read_text())["log_history"]
    accuracy = [line["eval_accuracy"] for line in log if "eval_accuracy" in line]
    assert accuracy[-1] > accuracy[0] + 0.2
    named = [f"model_name_or_path={classify_run['model_name_or_path']}", f"adapter_name_or_path={adapter}"]
    merged = tmp_path / "merged"
    assert cli.main(["export", *named, f"export_dir={merged}"]) == 0
    runs = [load(arguments, "chat") for arguments in (named, [f"model_name_or_path={merged}"])]
    query, documents = f"{WORDS[0]} 3", [f"5 {word}" for word in KINDS.values()]
    one, other = (build_reranker(run.model, run.adapter, dtype="float32").score(query, documents) for run in runs)
    assert one == pytest.approx(other, abs=1e-4)
    texts = [f"{query} : {document}" for document in documents]
    model = AutoModelForSequenceClassification.from_pretrained(merged)
    plain = plain_scores(model, AutoTokenizer.from_pretrained(merged), texts)[:, 0]
    assert plain.tolist() == pytest.approx(one, abs=1e-4)
    with pytest.raises(ModelError, match="is a reranker"):
        build_classifier(runs[1].model, Full())


def test_texts_of_other_rows_are_the_same_in_every_layout(classify_run, tmp_path):
    """Rows without a negative of their own; the loss of a step is that of its rows, whatever the micro-batch."""
    rows = [{"query": f"{word} {n % 9}", "positive": f"{n} {word}"} for n, word in enumerate(list(KINDS.values()) * 8)]
    (Path(classify_run["dataset_dir"]) / "match.json").write_text(json.dumps(rows))
    settings = {**classify_run, "stage": "rerank", "dataset": "match", "rerank_random_negatives": 3, "learning_rate": 0.01}
    settings |= {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "max_steps": 4}
    whole = start(settings, tmp_path)
    split = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "output_dir": str(tmp_path / "split")}
    assert losses_of(start(settings, tmp_path, **split)) == pytest.approx(losses_of(whole), abs=1e-5)
    assert losses_of(whole)[0] == pytest.approx(math.log(4), abs=0.1), "one of four, and a head near 0"
    assert len(set(losses_of(whole))) == 4


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"dataset": "rows"}, 1, "does not say which column is the label"),
        ({"dataset": "wrong"}, 1, 'no column "Kind": row 0 (the row has text, kind, size'),
        ({"eval_dataset": "strange"}, 1, "strange row 3 is of the class 'green', and the classes of dataset"),
        ({"dataset": "alike"}, 1, "all 17 texts are of the class 'glad'"),
        ({"dataset": "size"}, 1, "see label_kind"),
        ({"template": "qwen"}, 2, "has no effect with stage: classify"),
        ({"lora_target": "score"}, 2, "trained whole in any case; leave it out"),
        ({"class_names": "glad,rude"}, 1, "is of the class 'blue', and the classes of class_names are glad, rude"),
        ({"stage": "sft", "dataset": "few"}, 1, "holds labelled texts"),
        ({"stage": "rerank", "dataset": "few"}, 1, "does not say which text answers a query"),
        ({"stage": "rerank", "dataset": "match"}, 1, "no text that does not answer"),
    ],
)
def test_what_cannot_be_meant_is_refused(changes, code, said, classify_run, tmp_path, capsys):
    assert cli.main(["train", str(write_run({**classify_run, **changes}, tmp_path / "run.yaml"))]) in (code, 3 - code)
    assert said in capsys.readouterr().err


def test_adapters_of_the_other_sort_are_refused(classify_run, tiny_run, tmp_path, capsys):
    scores = start(classify_run, tmp_path, max_steps=1, warmup_steps=0, output_dir=str(tmp_path / "scores"))
    writes = start({**tiny_run, "dataset": "rows"}, tmp_path, max_steps=1, warmup_steps=0, output_dir=str(tmp_path / "writes"))
    for settings, adapter, said in (
        (classify_run, writes, "has no head that scores texts, which would not be trained; write create_new_adapter"),
        (tiny_run, scores, "is an adapter of a model that scores texts"),
    ):
        path = write_run({**settings, "adapter_name_or_path": str(adapter)}, tmp_path / "run.yaml")
        assert cli.main(["train", str(path)]) == 2
        assert said in capsys.readouterr().err
    start(classify_run, tmp_path, adapter_name_or_path=str(writes), create_new_adapter=True, max_steps=2)


def test_families_that_cannot_are_told(classify_run, tiny_tokenizer, tmp_path, capsys):
    from tests.families import tiny

    for family, said in (("cohere", "for which transformers has no class"), ("gpt2", "goes a way of its own")):
        tiny(family, vocab_size=len(tiny_tokenizer)).save_pretrained(tmp_path / family)
        tiny_tokenizer.save_pretrained(tmp_path / family)
        path = write_run({**classify_run, "model_name_or_path": str(tmp_path / family)}, tmp_path / "run.yaml")
        assert cli.main(["check", str(path)]) == 2
        assert said in capsys.readouterr().err


def test_a_new_head_follows_the_seed_and_the_base_is_read_as_it_is(classify_run, tmp_path):
    still = {"max_steps": 1, "warmup_steps": 0, "learning_rate": 1e-20, **METHODS["full"]}
    settings = of_method(classify_run, "full")
    heads = [
        start(settings, tmp_path, **{**still, "seed": seed}, output_dir=str(tmp_path / f"of_{seed}_{time}"))
        for seed, time in ((1, 0), (1, 1), (2, 0))
    ]
    one, again, other = (weights_of(folder)["score.weight"] for folder in heads)
    assert torch.equal(one, again) and not torch.equal(one, other) and 0.01 < float(one.std()) < 0.03
    base = AutoModelForCausalLM.from_pretrained(classify_run["model_name_or_path"]).state_dict()
    kept = {name: weight for name, weight in weights_of(heads[0]).items() if name != "score.weight"}
    assert all(torch.equal(weight, base[name]) for name, weight in kept.items())
