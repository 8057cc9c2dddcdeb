"""The bench's jobs are settings that hone takes, every system is told the same, and a run is watched and takes its turns.

Does not run a peer.
"""

from __future__ import annotations

import json
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoTokenizer, LlamaConfig, PreTrainedModel, PreTrainedTokenizerBase, Qwen3MoeConfig

BENCH = Path(__file__).resolve().parents[2] / "bench"
for folder in (BENCH / "gpu", BENCH):
    sys.path.insert(0, str(folder))

import cases  # noqa: E402
import flops  # noqa: E402
import inputs  # noqa: E402
import ledger  # noqa: E402
import turns  # noqa: E402
import watch  # noqa: E402
from sides import hone, llamafactory, rows, transformers, trl  # noqa: E402

from hone.chat.codec import build_codec  # noqa: E402
from hone.chat.message import Conversation, message  # noqa: E402
from hone.config import load  # noqa: E402
from hone.config.chat import ChatConfig  # noqa: E402

TABLES = {"cpu": BENCH / "cases.toml", "gpu": BENCH / "gpu" / "cases.toml"}
TRAINED = [
    pytest.param(case, setting, id=f"{where}, {case.name}, {setting.label}")
    for where, table in TABLES.items()
    for case in cases.read(table)[1].values()
    for setting in case.settings
]
WORDS = {"hone": hone.words, "llamafactory": llamafactory.words, "trl": trl.words, "transformers": transformers.words}


def job_of(case: cases.Case, setting: cases.Setting) -> dict[str, Any]:
    """The job with inputs that are nowhere."""
    given = {"model": "model", "data": "data", "vocabulary": 9, "pad_id": 0, "longest": 64}
    return case.job(setting, given | {"tokens": {case.dataset: [10, 31, 20, 40] * 100}}, steps=2)


@pytest.mark.parametrize("case, setting", [one for one in TRAINED if one.values[1].system == "hone"])
def test_hone_takes_every_job(case: cases.Case, setting: cases.Setting, tmp_path: Path):
    (tmp_path / "run.yaml").write_text(json.dumps(hone.words(job_of(case, setting))))
    run = load([str(tmp_path / "run.yaml")], "train")
    assert (run.train.per_device_train_batch_size, run.train.max_steps) == (case.batch, 2)
    assert run.train.disable_shuffling and run.adapter.kind == case.method


def test_systems_are_told_the_same():
    case = cases.read()[1]["lora-short"]
    told = {name: words(job_of(case, cases.Setting(name, ""))) for name, words in WORDS.items()}
    for name in ("learning_rate", "lr_scheduler_type", "max_steps", "per_device_train_batch_size", "seed"):
        assert len({one[name] for one in told.values()}) == 1, name
    assert told["hone"] == told["llamafactory"] | {"tokenized_path": "cache"}
    assert [told[name]["train_sampling_strategy"] for name in ("trl", "transformers")] == ["sequential"] * 2


def test_packed_rows_hold_the_tokens_of_a_step():
    case = cases.Case("", "train", "", batch=4)
    told = llamafactory.words(job_of(case, cases.Setting("llamafactory", "best", {"packing": True})))
    assert (told["per_device_train_batch_size"], told["cutoff_len"]) == (1, 104)  # 101 tokens a step, up to a multiple of 8


def test_a_case_must_be_of_a_known_kind(tmp_path: Path):
    (tmp_path / "cases.toml").write_text('[cases.odd]\nwork = "fly"\ntitle = ""\n')
    with pytest.raises(ValueError, match="case odd: work is 'fly'"):
        cases.read(tmp_path / "cases.toml")


def test_rows_become_messages(tmp_path: Path):
    said = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes?"}, {"from": "human", "value": "Bye"}]
    pair = {"conversations": said, "chosen": {"from": "gpt", "value": "Goodbye"}, "rejected": {"from": "gpt", "value": "No"}}
    inputs.write(tmp_path, {"short": [{"instruction": "Add", "input": "1, 2", "output": "3"}], "pairs": [pair]})
    (row,) = rows.answered({"data": str(tmp_path), "dataset": "short"})
    assert row["prompt"] == [{"role": "user", "content": "Add\n1, 2"}]
    assert row["completion"] == [{"role": "assistant", "content": "3"}]
    (both,) = rows.pairs({"data": str(tmp_path), "dataset": "pairs"})
    assert [turn["role"] for turn in both["prompt"]] == ["user", "assistant", "user"]
    assert [both[side][0]["content"] for side in ("chosen", "rejected")] == ["Goodbye", "No"]


def test_the_format_gives_every_system_the_same_ids():
    place = inputs.DATA / "tokenizers" / "llama-2"
    if not place.is_dir():
        pytest.skip("the tokenizer of Llama 2 is not at hand")
    tokenizer = AutoTokenizer.from_pretrained(place)
    tokenizer.chat_template, tokenizer.pad_token = inputs.TEMPLATE, "<unk>"
    texts = ["Write.", "\nTwo  spaces, then\n\nlines\n", " 1 + 1 = ?", "né, 日本"]
    codec = build_codec(ChatConfig(), tokenizer, family="")
    for asked, answer in zip(texts, reversed(texts), strict=True):
        told = {"prompt": [{"role": "user", "content": asked}], "completion": [{"role": "assistant", "content": answer}]}
        whole = transformers.encode(tokenizer, told, 999)
        (mine,) = codec.encode([Conversation((message("user", asked), message("assistant", answer)))])
        assert mine.ids.tolist() == whole["input_ids"] and mine.labels.tolist() == whole["labels"]
        parts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("<s>", asked + "</s><s>", answer + "</s>")]
        assert list(chain(*parts)) == whole["input_ids"]  # as LLaMA-Factory encodes: piece by piece


def test_a_run_is_watched(monkeypatch: pytest.MonkeyPatch):
    patched = ((nn.Embedding, "forward"), (torch.Tensor, "backward"), (torch.optim.Optimizer, "zero_grad"))
    for owner, name in patched:
        monkeypatch.setattr(owner, name, getattr(owner, name))
    for kind in (PreTrainedTokenizerBase, PreTrainedModel):
        monkeypatch.setattr(kind, "from_pretrained", kind.__dict__["from_pretrained"])
    seen = watch.Watch(7, 0, 3, spawned=0.0, turns=watch.Turns())
    handle = seen.start()
    embedding, other = nn.Embedding(7, 2), nn.Embedding(5, 2)
    optimizer = torch.optim.SGD(embedding.parameters(), lr=0.1)
    (3.0 + 0.0 * embedding(torch.tensor([[4, 4]])).sum()).backward()
    optimizer.zero_grad()  # a trial, whose gradients are dropped
    with pytest.raises(watch.Done):
        for ids in ([[3, 1, 1, 0]], [[1, 3, 3, 0]], [[2, 3, 0, 0]], [[6, 6, 6, 6]]):
            other(torch.tensor([4]))
            with torch.no_grad():
                embedding(torch.tensor([5]))
            loss = 2.0 + 0.0 * embedding(torch.tensor(ids)).sum()
            loss.backward()
            optimizer.step()
    handle.remove()
    steps = seen.finish()["steps"]
    assert [(step["tokens"], step["places"], step["loss"]) for step in steps] == [(3, 4, 2.0), (3, 4, 2.0), (2, 4, 2.0)]
    assert steps[0]["digest"] == steps[1]["digest"] != steps[2]["digest"]
    assert all(step["cpu"] >= 0 and step["wall"] >= 0 for step in steps[1:]) and seen.notes["peak"] > 0


CHILD = """
import json, os, sys
folder, hear, tell = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
name = json.load(open(f"{folder}/job.json"))["name"]
for number in range(3):
    with open(f"{folder}/../order", "a") as file:
        file.write(f"{name}{number} ")
    if (name, number) == ("b", 2):
        raise ValueError("no more")
    os.write(tell, json.dumps({"cpu": 1.0, "wall": 1.0, "number": number}).encode() + b"\\n")
    os.read(hear, 1)
json.dump({"name": name}, open(f"{folder}/result.json", "w"))
"""


def test_runs_take_turns_and_one_that_fails_does_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "child.py").write_text(CHILD)
    monkeypatch.setattr(turns, "SIDE", tmp_path / "child.py")
    begun = [(name, tmp_path / name, Path(sys.executable), {"name": name}) for name in "ab"]
    found = turns.alternate(begun, 3, tell=lambda line: None)
    assert (tmp_path / "order").read_text() == "a0 b0 a1 b1 a2 b2 "
    assert found == {"a": {"name": "a"}, "b": {"error": "ValueError: no more"}}


def test_a_run_that_does_not_end_costs_its_own_time_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "child.py").write_text("import time\ntime.sleep(60)")
    monkeypatch.setattr(turns, "SIDE", tmp_path / "child.py")
    assert turns.alone(tmp_path / "a", Path(sys.executable), {}, 1, limit=0.3) == {"error": "not done after 0 s"}


def test_rows_one_by_one_are_as_many_a_step():
    case = cases.Case("", "train", "", batch=4)
    told = WORDS["transformers"](job_of(case, cases.Setting("transformers", "", {"gradient_accumulation_steps": "batch"})))
    assert told["gradient_accumulation_steps"] == 4


def test_what_runs_left_is_a_table_a_case(tmp_path: Path):
    """The first run of another system is what the others are over; a plan and what was said of trials stand beside a run."""
    case, book = cases.Case("one", "train", "One"), ledger.Ledger("a device", 100.0, tmp_path)
    steps = [{"wall": 2.0, "cpu": 1.0, "tokens": 8, "places": 8, "digest": "d", "loss": 1.0}] * 3
    notes = {"steps": steps, "peak": 2**30, "imported": {"bytes": 0, "cpu": 0.0}, "ready": 1.0, "loading": 0.0, "weights": 0}
    lost = {**notes, "steps": [{**steps[0], "loss": float("nan")}] * 3}
    assert "no result" in book.add(case, cases.Setting("trl", "stock"), lost, tmp_path / "none", 10.0)
    for name in ("plain", "hone"):
        (tmp_path / name / "out").mkdir(parents=True)
        (tmp_path / name / "log.txt").write_text("epoch 1\n  0%|\rfused: 2 norms, in Triton\n")
    memory = {"weights": 2**30, "fragmentation": 2**30, "host": 2**30}
    plan = {"memory": memory, "activations": "kept", "step_seconds": 0.5, "from_layers": False}
    (tmp_path / "hone" / "out" / "plan.json").write_text(json.dumps(plan))
    book.add(case, cases.Setting("transformers", "kept", {"bf16": True}), notes, tmp_path / "plain", 10.0)
    faster = notes | {"steps": [step | {"wall": 1.0} for step in steps]}
    line = book.add(case, cases.Setting("hone", "fused", {"bf16": True}), faster, tmp_path / "hone", 10.0)
    assert "| 8 (8 to 8) | 2.00 (2.00 to 2.00) | 80.0% (80.0% to 80.0%) | 1.0 |" in line
    assert line.endswith("| kept, 1.0, 0.50, by a formula |")
    other = book.add(case, cases.Setting("hone", "odd", {"bf16": True}), {"error": "OutOfMemoryError"}, tmp_path / "none", 10.0)
    assert other.startswith("| hone odd | no result: OutOfMemoryError |")
    kept = json.loads((tmp_path / "results.json").read_text())["runs"]["one"]
    assert kept["hone fused"]["told"] == ["fused: 2 norms, in Triton"]
    assert (tmp_path / "results.md").read_text().count("\n| ") == 5


def test_the_arithmetic_of_known_models():
    llama = LlamaConfig(
        vocab_size=128_256, hidden_size=4096, intermediate_size=14_336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8,
    )  # fmt: skip
    work = flops.work_of(llama)
    assert work.linear == 6_979_321_856 and work.head == 525_336_576 and 16 * work.adapted == 41_943_040
    # 4 (linear + head) + 6 adapter + 7 x 2,048 x 4,096 x 32
    assert flops.flops_per_token(work, 2048, method="lora", rank=16) / 1e9 == pytest.approx(32.15, abs=0.005)
    assert flops.flops_per_token(work, 2048, method="full") / 1e9 == pytest.approx(46.91, abs=0.005)
    referred = flops.flops_per_token(work, 2048, method="lora", rank=16, reference=True)
    assert referred / 1e9 == pytest.approx(32.15 + 15.01 + 0.54, abs=0.01)
    moe = Qwen3MoeConfig(
        vocab_size=151_936, hidden_size=2048, num_hidden_layers=48, num_attention_heads=32, num_key_value_heads=4, head_dim=128,
        moe_intermediate_size=768, num_experts=128, num_experts_per_tok=8,
    )  # fmt: skip
    work = flops.work_of(moe)  # 3.3 billion of 30 answer a token, as its name says
    assert (work.linear + 2 * work.head) / 1e9 == pytest.approx(3.3, abs=0.1)
