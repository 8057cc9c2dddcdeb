"""hone check shows what would be learned and exits non-zero where that would be nothing, or the wrong thing."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.runs import write_run

from hone import cli
from hone.chat.codec import Codec
from hone.chat.encoded import IGNORE, Encoded
from hone.training import makers
from hone.training.planning.review import paint


def check(settings: dict[str, Any], tmp_path: Path, *more: str) -> int:
    return cli.main(["check", str(write_run(settings, tmp_path / "run.yaml")), *more])


def test_a_sound_run_is_shown_and_passes(tiny_run, tmp_path, capsys):
    assert check(tiny_run, tmp_path) == 0
    shown, said = capsys.readouterr()
    assert "<|im_start|>assistant\n[+" in shown and "<|im_end|>+]" in shown
    assert "23 rows read, 23 kept, 0 refused" in shown
    assert "4 sequences = 2 x 2 accumulated x 1 processes, packed" in shown
    (told,) = re.findall(r"([\d,]+) of ([\d,]+) weights are trained \(([\d.]+%)\)", said)
    assert f"weights      {told[1]}, of which {told[0]} ({told[2]}) trained" in shown, "one figure of the weights"
    assert "8 steps" in shown and "activations" in shown and shown.rstrip().endswith("no fault found")
    assert not Path(tiny_run["output_dir"]).exists(), "a check writes nothing where the model would go"


def test_every_name_that_nothing_has_is_told_at_once_with_the_nearest(tiny_run, tmp_path, capsys):
    """Template, data sets and modules, before data are read: each with what may be meant."""
    names = {"template": "qwn", "dataset": "tinyy,nowhere", "lora_target": "q_prj,v_proj,up_poj"}
    assert check({**tiny_run, **names}, tmp_path) == cli.main(["train", str(tmp_path / "run.yaml")]) == 2
    told = capsys.readouterr().err
    for words in ('unknown template "qwn" (did you mean "qwen"?)', 'data set "tinyy" is not', 'data set "nowhere" is not',
                  '"q_prj" (did you mean "q_proj"?)', '"up_poj" (did you mean "up_proj"?)'):  # fmt: skip
        assert told.count(words) == 2, words
    assert check({**tiny_run, **names}, tmp_path, "--json") == 2
    assert len(json.loads(capsys.readouterr().out)["errors"]) == 5


@pytest.mark.parametrize(("here", "format"), [(True, "bfloat16"), (False, "float32")])
def test_bf16_auto_is_what_the_cpu_multiplies_itself_and_is_said(here, format, tiny_run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: here)
    assert check({**tiny_run, "bf16": "auto"}, tmp_path) == 0
    shown, said = capsys.readouterr()
    assert f"computing in {format}" in shown
    assert f"bf16: auto: {format}, as this CPU has {'AVX512-BF16' if here else 'neither AVX512-BF16 nor AMX'}" in said


def test_machines_get_json(tiny_run, tmp_path, capsys):
    assert check(tiny_run, tmp_path, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["errors"] == [] and found["faults"] == [] and len(found["samples"]) == 3
    assert found["plan"]["num_steps"] == 8 and found["plan"]["memory"]["weights"] > 0
    assert {law["held"] for law in found["laws"]} <= {True, None}


def test_machines_get_the_mistakes_where_the_settings_or_the_data_end_the_check(tiny_run, tmp_path, capsys):
    assert check({**tiny_run, "lora_rnk": 4}, tmp_path, "lora_rank=x", "--json") == 2
    first, second = json.loads(capsys.readouterr().out)["errors"]
    lines = (tmp_path / "run.yaml").read_text().splitlines()
    assert first["place"].endswith(f"run.yaml:{lines.index('lora_rnk: 4') + 1}") and first["key"] == "lora_rnk"
    assert "unknown setting" in first["message"]
    assert (second["place"], second["key"]) == ("command line", "lora_rank")
    assert check({**tiny_run, "dataset": "nowhere"}, tmp_path, "--json") == 2
    shown = capsys.readouterr()
    assert json.loads(shown.out).keys() == {"errors"} and "nowhere" in json.loads(shown.out)["errors"][0]["message"]
    assert "hone check: " in shown.err


def test_a_template_that_contradicts_the_tokenizer_is_a_fault(tiny_run, tmp_path, capsys):
    assert check({**tiny_run, "template": "vicuna"}, tmp_path) == 2
    assert "fault: template: vicuna contradicts the format the tokenizer carries" in capsys.readouterr().out


def test_answers_that_are_cut_in_most_rows_are_warned_of(tiny_run, tmp_path, capsys):
    assert check({**tiny_run, "cutoff_len": 28}, tmp_path) == 0
    shown = capsys.readouterr().out
    assert "warning: cutoff_len: 28 cuts the answers of" in shown and "of 23 rows of rows" in shown


def test_a_run_whose_learning_rate_is_always_0_is_a_fault_and_does_not_start(tiny_run, tmp_path, capsys):
    settings = {**tiny_run, "max_steps": 1, "warmup_steps": 1}
    assert check(settings, tmp_path) == 2
    assert "fault: the learning rate is 0 in each of the 1 steps" in capsys.readouterr().out
    assert cli.main(["train", str(tmp_path / "run.yaml")]) == 2
    assert "the learning rate is 0 in each of the 1 steps, so nothing would be learned" in capsys.readouterr().err


def unlearn(monkeypatch: pytest.MonkeyPatch, keep: int) -> None:
    """Make the codec learn only the first `keep` tokens of what it should."""
    real = Codec.encode

    def fewer(codec: Codec, conversations, learn="answers"):
        cut = []
        for encoded in real(codec, conversations, learn):
            labels = encoded.labels.copy()
            labels[np.flatnonzero(labels != IGNORE)[keep:]] = IGNORE
            cut.append(Encoded(encoded.ids, labels, encoded.find_pieces))
        return cut

    monkeypatch.setattr(Codec, "encode", fewer)


def test_answers_that_never_learn_to_end_are_a_fault(tiny_run, tmp_path, capsys, monkeypatch):
    unlearn(monkeypatch, 2)
    assert check(tiny_run, tmp_path) == 2
    shown = capsys.readouterr().out
    assert "fault: an answer's stop token is not trained" in shown
    assert "fault: the chat format breaks a law: the stop token is trained" in shown


def test_nothing_to_learn_is_refused(tiny_run, tmp_path, capsys, monkeypatch):
    unlearn(monkeypatch, 0)
    assert check(tiny_run, tmp_path) == 2
    assert "23 rows read, 0 kept, 23 refused" in capsys.readouterr().err


def without(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Make a package look as if it were not installed."""
    real = importlib.util.find_spec
    for room in ("models.attention", "models.quantize", "optim.bnb"):
        monkeypatch.setattr(f"hone.{room}.find_spec", lambda name: None if name == package else real(name))


@pytest.mark.parametrize(
    ("asked", "missing", "said"),
    [
        ({"flash_attn": "fa2"}, "flash_attn", "flash_attn: fa2 does not run on the CPU; write flash_attn: auto"),
        ({"quantization_bit": 4}, "bitsandbytes", "quantization_bit: 4 needs the package bitsandbytes"),
        ({"optim": "adamw_8bit"}, "bitsandbytes", "optim: adamw_8bit needs the package bitsandbytes"),
        ({"fp16": True}, "", "fp16: true needs an accelerator, and this run is on the CPU"),
        ({"tf32": True}, "", "tf32: true needs an NVIDIA GPU of Ampere or newer, this run is on CPU"),
        ({"lr_scheduler_kwargs": {"least": 1}}, "", 'lr_scheduler_kwargs: cosine has no number "least"'),
        (
            {"val_size": 0.2, "eval_strategy": "steps", "early_stopping_steps": 2, "metric_for_best_model": "rouge"},
            "",
            "eval_rouge is not measured",
        ),
    ],
)
def test_check_and_train_refuse_what_is_not_here_with_one_sentence(asked, missing, said, tiny_run, tmp_path, capsys, monkeypatch):
    without(monkeypatch, missing)
    monkeypatch.setattr(makers, "load_model", None)  # nothing heavy is reached
    assert check({**tiny_run, **asked}, tmp_path) == 2
    checked = capsys.readouterr().err.splitlines()[-1]
    assert cli.main(["train", str(tmp_path / "run.yaml")]) == 2
    assert said in checked and capsys.readouterr().err.splitlines()[-1].partition(": ")[2] == checked.partition(": ")[2]


def test_learned_text_is_green_on_a_terminal(tiny_tokenizer):
    ids = np.array(tiny_tokenizer.encode("Paris rain", add_special_tokens=False), np.int32)
    labels = np.where(np.arange(len(ids)) < len(ids) - 1, IGNORE, ids)
    last = tiny_tokenizer.decode(ids[-1:].tolist())
    assert paint(Encoded(ids, labels), tiny_tokenizer, colour=True).endswith(f"\x1b[32m{last}\x1b[0m")
    assert paint(Encoded(ids, labels), tiny_tokenizer, colour=False).endswith(f"[+{last}+]")


def use(tiny_run: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Settings that name a model and no data to train on."""
    return {key: tiny_run[key] for key in ("model_name_or_path", "finetuning_type", "dataset_dir")} | more


def test_settings_of_a_chat_are_looked_at_for_one(tiny_run, tmp_path, capsys):
    assert check(use(tiny_run, temperature=0.5), tmp_path) == 0
    shown = capsys.readouterr().out
    assert "for          hone chat" in shown and "<|im_start|>assistant" in shown and shown.rstrip().endswith("no fault found")
    assert check(use(tiny_run, temperature=0.5), tmp_path, "--json") == 0
    assert json.loads(capsys.readouterr().out)["faults"] == []


def test_all_that_a_server_lacks_is_told_at_once(tiny_run, tmp_path, capsys):
    server = {"infer_backend": "vllm", "infer_environment": str(tmp_path / "no"), "vllm_config": {"port": 1}}
    lacks = use(tiny_run, template="qwn", adapter_name_or_path="./nowhere", api_adapters="a=./gone", **server)
    assert check(lacks, tmp_path) == 2
    shown = capsys.readouterr().out
    assert "for          hone api" in shown and "dataset" not in shown
    for words in ('unknown template "qwn"', "./nowhere does not exist", "./gone does not exist", "vllm_config: port (",
                  "there is no program"):  # fmt: skip
        assert words in shown


def test_an_export_is_looked_at_with_its_place_and_its_texts(tiny_run, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    settings = use(tiny_run, export_dir=str(tmp_path / "full"), eval_dataset="rwos")
    assert check(settings, tmp_path) == 2
    shown = capsys.readouterr().out
    assert "for          hone export" in shown and "holds files that are not an export" in shown
    assert 'data set "rwos" is not defined' in shown and '(did you mean "rows"?)' in shown
    assert check(settings | {"export_dir": str(tmp_path / "new"), "eval_dataset": "rows"}, tmp_path) == 0
