"""Predictions: every evaluation row answered once, the answers those of the engine, also where a run was broken off."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hone import cli
from hone.chat.encoded import Encoded
from hone.chat.message import Conversation, message
from hone.config import load
from hone.inference.base import Request
from hone.inference.build import build_engine
from hone.training import predict
from hone.training.predict import FILE, last_answer
from tests.runs import write_run

ASKED = {"do_train": False, "do_predict": True, "predict_with_generate": True, "max_new_tokens": 8, "do_sample": False}
NOT_OF_TRAINING = ("max_steps", "learning_rate", "lr_scheduler_type", "save_strategy", "save_steps", "warmup_steps", "dataset")


@pytest.fixture
def asked(tiny_run, tmp_path):
    kept = {key: value for key, value in tiny_run.items() if key not in NOT_OF_TRAINING}
    return {**kept, **ASKED, "eval_dataset": tiny_run["dataset"], "max_samples": 7, "per_device_eval_batch_size": 3,
            "output_dir": str(tmp_path / "out")}  # fmt: skip


def lines(settings):
    return [json.loads(line) for line in Path(settings["output_dir"], FILE).read_text().split("\n")[:-1]]


def take(settings, tmp_path, **changes):
    return cli.main(["train", str(write_run({**settings, **changes}, tmp_path / "run.yaml"))])


def test_rows_are_answered_as_the_engine_answers_them(asked, tmp_path, capsys):
    assert take(asked, tmp_path) == 0
    said = capsys.readouterr().err
    assert "data         7 sequences\n" in said and "\nmemory " not in said, "a plan of training is not what happens"
    found = lines(asked)
    assert [(line["number"], line["row"]) for line in found] == [(row, row) for row in range(7)]
    run = load([str(tmp_path / "run.yaml")], "train")
    engine = build_engine(run.model, run.chat, run.adapter)
    rows = json.loads(next(Path(asked["dataset_dir"]).glob("rows*.json")).read_text())
    for line, row in zip(found, rows, strict=False):
        conversation = Conversation((message("user", row["instruction"]),))
        assert row["instruction"] in line["prompt"] and line["prompt"].endswith("<|im_start|>assistant\n")
        assert line["label"] == row["output"]
        (answer,) = engine.generate_many([Request(conversation, run.generate)])
        assert line["predict"] == answer.message.text
    results = json.loads(Path(asked["output_dir"], "predict_results.json").read_text())
    assert set(results) == {f"predict_{name}" for name in ("bleu-4", "rouge-1", "rouge-2", "rouge-l", "exact")}


def test_what_was_broken_off_is_gone_on_with(asked, tmp_path, monkeypatch):
    drawn = {"do_sample": True, "temperature": 1.0, "top_p": 1.0}
    assert take(asked, tmp_path, **drawn) == 0
    whole, file = lines(asked), Path(asked["output_dir"], FILE)
    text = file.read_text()
    file.write_text("\n".join(text.split("\n")[:4]) + "\n" + '{"number": 4, "prom')  # a kill in the middle of a line
    taken, plain = [], predict.drawn_batch
    monkeypatch.setattr(predict, "drawn_batch", lambda *a, **k: taken.append(len(a[1])) or plain(*a, **k))
    assert take(asked, tmp_path, **drawn) == 0
    assert lines(asked) == whole and taken == [3, 1], "the batch that was not whole, and the last one"
    assert take(asked, tmp_path, **drawn, seed=5) == 1 and lines(asked) == whole
    assert take(asked, tmp_path, **drawn, seed=5, overwrite_output_dir=True) == 0
    assert lines(asked) != whole and taken == [3, 1, 3, 3, 1], "another seed is another job"


def test_after_training_the_trained_model_answers(tiny_run, tmp_path, capsys):
    settings = {**tiny_run, "do_predict": True, "val_size": 3, "max_new_tokens": 4, "max_steps": 2}
    assert take(settings, tmp_path) == 0
    assert len(lines(settings)) == 3 and "predict_rouge-l" in capsys.readouterr().err


def test_the_last_answer_of_a_row():
    ids = np.arange(8, dtype=np.int32)
    labels = np.array([-100, 1, 2, -100, -100, 5, 6, -100], np.int32)
    assert last_answer(Encoded(ids, labels)) == (5, 7)
    assert last_answer(Encoded(ids[:3], labels[:3])) == (1, 3)
    assert last_answer(Encoded(ids[:1], labels[:1])) == (0, 0)
