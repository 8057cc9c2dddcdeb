"""A run that goes on: what its settings may change, what they may not, and where its files may lie."""

from __future__ import annotations

import itertools
import json
import math
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hone.commands import check, train
from hone.errors import CheckpointError, DataError, ModelError, TrainingError
from hone.training import loop
from hone.training.checkpoints import checkpoint
from hone.training.checkpoints.identity import SEQUENCES
from hone.training.checkpoints.keeper import Keeper
from hone.training.feed import MicroBatch
from hone.training.loop import StepResult
from hone.training.progress import Progress
from tests.runs import largest_difference, weights_of, write_run


def start(settings: dict[str, Any], tmp_path: Path, **changes: object) -> int:
    """Train with `changes`."""
    return train.main([str(write_run({**settings, **changes}, tmp_path / "run.yaml"))])


@pytest.fixture
def halfway(tiny_run, tmp_path) -> dict[str, Any]:
    """Settings of a run of 4 steps whose folder holds checkpoint-2 alone."""
    settings = {**tiny_run, "save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    assert start(settings, tmp_path) == 0
    shutil.rmtree(Path(settings["output_dir"]) / "checkpoint-4")
    return settings


def rates_of(settings: dict[str, Any]) -> list[float]:
    lines = (Path(settings["output_dir"]) / "trainer_log.jsonl").read_text().splitlines()
    return [json.loads(line)["lr"] for line in lines]


def test_another_learning_rate_is_the_one_that_is_used(halfway, tmp_path):
    before = rates_of(halfway)
    assert start(halfway, tmp_path, learning_rate=0.001) == 0
    assert rates_of(halfway) == pytest.approx([*before[:2], *(rate / 10 for rate in before[2:])])


def test_more_steps_stretch_the_schedule_from_the_first_one_taken(halfway, tmp_path, capsys):
    assert start(halfway, tmp_path, max_steps=8) == 0
    assert "at step 2 of 8" in capsys.readouterr().err
    longer = {**halfway, "output_dir": str(tmp_path / "longer"), "max_steps": 8}
    assert start(longer, tmp_path) == 0
    assert rates_of(halfway) == pytest.approx(rates_of(longer))


def test_another_weight_decay_is_the_one_that_is_used(halfway, tmp_path):
    folder = Path(halfway["output_dir"])
    shutil.copytree(folder / "checkpoint-2", tmp_path / "other" / "checkpoint-2")
    assert start(halfway, tmp_path) == 0
    assert start(halfway, tmp_path, output_dir=str(tmp_path / "other"), weight_decay=0.9) == 0
    decayed, plain = weights_of(tmp_path / "other"), weights_of(folder)
    assert sum(float(decayed[name].norm()) for name in plain) < sum(float(weight.norm()) for weight in plain.values())


QUANTIZED = [
    "quantization_bit: left out there, 4 now",
    "quantization_method: left out there, bnb now",
    "quantization_type: left out there, nf4 now",
    "double_quantization: left out there, true now",
]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"train_from_scratch": True, "finetuning_type": "full", "lora_target": "all"},
            ["train_from_scratch: false there, true now", "finetuning_type: lora there, full now"],
        ),
        ({"quantization_bit": 4}, QUANTIZED),
        ({"bf16": True}, ["precision: no there, bf16 now"]),
        ({"rope_scaling": "linear"}, ["rope_scaling: left out there, linear now"]),
        ({"lora_rank": 16}, ["lora_rank: 8 there, 16 now", "lora_alpha: 16 there, 32 now"]),
        ({"lora_target": "q_proj,v_proj"}, ["lora_target: all there, q_proj,v_proj now"]),
        ({"use_dora": True}, ["use_dora: false there, true now"]),
        ({"mask_history": True}, ["mask_history: false there, true now"]),
        ({"optim": "sgd"}, ["optim: adamw_torch there, sgd now"]),
        ({"loraplus_lr_ratio": 4.0}, ["loraplus_lr_ratio: left out there, given now"]),
        ({"cutoff_len": 16}, ["cutoff_len: 256 there, 16 now"]),
        ({"template": "chatml"}, ["template: left out there, chatml now"]),
        ({"val_size": 5}, ["val_size: 0.0 there, 5.0 now"]),
        ({"gradient_accumulation_steps": 4}, [f"{SEQUENCES}: 4 there, 8 now"]),
        ({"data_seed": 3}, ["data_seed: 7 there, 3 now"]),
        ({"disable_shuffling": False}, ["disable_shuffling: true there, false now"]),
        ({"dataloader_drop_last": True}, ["dataloader_drop_last: false there, true now"]),
        ({"packing": True}, ["packing: false there, true now"]),
    ],
)
def test_what_makes_another_run_is_refused_by_name(halfway, tmp_path, change, said):
    assert differing(halfway, tmp_path, **change) == said


def differing(settings: dict[str, Any], tmp_path: Path, **changes: object) -> list[str]:
    """The lines of the refusal to continue with `changes`."""
    with pytest.raises(CheckpointError, match="belongs to another run") as caught:
        start(settings, tmp_path, **changes)
    return [line.strip() for line in str(caught.value).splitlines() if line.startswith("  ")]


def test_rows_that_changed_are_told_by_their_set(halfway, tmp_path):
    rows = Path(halfway["dataset_dir"]) / "rows.json"
    rows.write_text(rows.read_text().replace("quick", "slow"))
    assert differing(halfway, tmp_path) == ["rows of rows: other tokens there; its file or the tokenizer has changed"]


def test_a_default_that_is_written_out_makes_no_other_run(halfway, tmp_path):
    assert start(halfway, tmp_path, lora_alpha=16, data_seed=7) == 0


def test_a_run_that_is_shorter_than_what_is_done_is_refused(halfway, tmp_path):
    with pytest.raises(CheckpointError, match="checkpoint-2 is 2 steps old and this run ends after 1"):
        start(halfway, tmp_path, max_steps=1)


def test_notes_of_an_earlier_version_are_told(halfway, tmp_path):
    manifest = Path(halfway["output_dir"]) / "checkpoint-2" / checkpoint.MANIFEST
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "fingerprint": {"optim": "adamw_torch"}}))
    with pytest.raises(CheckpointError, match="saved by an earlier version of hone"):
        start(halfway, tmp_path)


def test_an_older_checkpoint_that_is_continued_leaves_the_later_ones_behind(tiny_run, tmp_path):
    settings = {**tiny_run, "save_strategy": "steps", "save_steps": 2, "max_steps": 8}
    assert start(settings, tmp_path) == 0
    folder = Path(settings["output_dir"])
    older = str(folder / "checkpoint-2")
    assert start(settings, tmp_path, max_steps=4, resume_from_checkpoint=older, save_total_limit=1, learning_rate=0.02) == 0
    assert sorted(path.name for path in folder.glob("checkpoint-*")) == ["checkpoint-4"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_name_or_path": "out"}, r"output_dir: .*out is the model_name_or_path of this run"),
        ({"adapter_name_or_path": "out/checkpoint-2"}, r"out holds the adapter_name_or_path of this run \(.*checkpoint-2\)"),
        ({"sft_loss": "asft", "ref_model": "out"}, "is the ref_model of this run"),
        ({"stage": "ppo", "reward_model_type": "full", "reward_model": "out"}, "is the reward_model of this run"),
    ],
)
def test_an_output_dir_that_the_run_reads_is_refused_before_anything_is_written(tiny_run, tmp_path, changes, said):
    for folder in (tmp_path / "out", tmp_path / "out" / "checkpoint-2"):
        folder.mkdir()
        (folder / "mine.txt").write_text("mine")
    placed = {key: str(tmp_path / value) if value.startswith("out") else value for key, value in changes.items()}
    for command in (train, check):
        with pytest.raises(CheckpointError, match=said):
            command.main([str(write_run({**tiny_run, **placed, "overwrite_output_dir": True}, tmp_path / "run.yaml"))])
    assert sorted(path.name for path in (tmp_path / "out").rglob("*")) == ["checkpoint-2", "mine.txt", "mine.txt"]


def test_a_folder_that_is_only_named_like_a_checkpoint_is_never_removed(tiny_run, tmp_path):
    mine = tmp_path / "out" / "checkpoint-5" / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    for changes in ({"overwrite_output_dir": True}, {}):
        with pytest.raises(CheckpointError, match=r"checkpoint-5 is named like a checkpoint and holds none .*Move or rename it"):
            start(tiny_run, tmp_path, **changes)
    assert mine.read_text() == "mine"


def test_an_output_dir_that_cannot_be_written_is_told_first(tiny_run, tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(CheckpointError, match=r"output_dir: .*out cannot be written to: it is no folder"):
        start(tiny_run, tmp_path)
    with pytest.raises(CheckpointError, match=r"/dev/full cannot be written to: it is no folder"):
        start(tiny_run, tmp_path, output_dir="/dev/full")
    with pytest.raises(CheckpointError, match="cannot be written to: Not a directory"):
        start(tiny_run, tmp_path, output_dir=str(tmp_path / "out" / "deeper"))


def test_a_run_that_only_evaluates_leaves_a_training_run_s_folder_alone(halfway, tmp_path):
    folder = Path(halfway["output_dir"])
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "all_results.json"}
    asked = {"do_train": False, "do_eval": True, "val_size": 0.2, "seed": 11}
    settings = {key: value for key, value in halfway.items() if key not in _OF_TRAINING}
    assert start(settings, tmp_path, **asked) == 0
    assert {path: path.read_bytes() for path in before} == before
    assert (folder / "eval_results.json").is_file()


_OF_TRAINING = ("max_steps", "save_steps", "save_strategy", "learning_rate", "lr_scheduler_type", "warmup_steps")


def test_changed_settings_of_the_loop_are_told(halfway, tmp_path, capsys):
    assert start(halfway, tmp_path, learning_rate=0.001, weight_decay=0.1) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if line.endswith(" now")]
    assert told == ["note: learning_rate: 0.01 there, 0.001 now", "note: weight_decay: 0.0 there, 0.1 now"]


def test_a_finished_run_is_left_as_it_is_until_something_is_left_to_do(tiny_run, tmp_path, capsys):
    settings = {**tiny_run, "save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    assert start(settings, tmp_path) == 0
    folder = Path(settings["output_dir"])
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert start(settings, tmp_path, learning_rate=1e-6, max_steps=4) == 0
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    said = capsys.readouterr().err
    assert said.splitlines()[-1] == (
        f"{folder} is finished at step 4 of 4: nothing is left to do (learning_rate: 0.01 there, 1e-06 now: without effect); "
        "raise max_steps, or overwrite_output_dir: true starts anew"
    )
    assert "continuing" not in said and "train_loss" not in said
    (folder / "train_results.json").unlink()  # it was killed before it had written all
    assert start(settings, tmp_path) == 0
    assert (folder / "train_results.json").is_file()


def test_a_run_that_ended_early_stays_ended(tiny_run, tmp_path, capsys):
    settings = {
        **tiny_run,
        "save_strategy": "steps",
        "save_steps": 2,
        "max_steps": 40,
        "val_size": 0.2,
        "lr_scheduler_type": "linear",
    }
    settings = {**settings, "eval_strategy": "steps", "eval_steps": 2, "early_stopping_steps": 1, "learning_rate": 2.0}
    assert start(settings, tmp_path) == 0
    ended = json.loads((Path(settings["output_dir"]) / "trainer_state.json").read_text())["global_step"]
    assert 2 <= ended < 40
    assert start(settings, tmp_path) == 0
    assert f"finished at step {ended} of 40: nothing is left to do; raise early_stopping_steps" in capsys.readouterr().err
    assert json.loads((Path(settings["output_dir"]) / "trainer_state.json").read_text())["global_step"] == ended


@pytest.mark.parametrize("kind", ["lora", "full", "freeze"])
def test_the_plan_counts_what_is_trained_where_the_vocabulary_grows(kind, tiny_run, tmp_path, capsys):
    settings = {**tiny_run, "finetuning_type": kind, "add_tokens": "<one>,<two>", "max_steps": 2}
    if kind != "lora":
        settings.pop("lora_target")
    assert start(settings, tmp_path) == 0
    said = capsys.readouterr().err
    plan = json.loads((Path(settings["output_dir"]) / "plan.json").read_text())
    assert f"{plan['num_trained']:,} of " in said and said.count("weights are trained") == 1
    assert plan["num_trained"] > 2 * 448 * 32, "both embeddings, with their new rows, learn"


def test_the_plan_counts_the_adapter_that_is_continued_and_a_vocabulary_that_does_not_fit_is_told(tiny_run, tmp_path, capsys):
    assert start(tiny_run, tmp_path, lora_rank=4, max_steps=2, add_tokens="<one>") == 0
    before = json.loads((tmp_path / "out" / "plan.json").read_text())["num_trained"]
    again = {**tiny_run, "output_dir": str(tmp_path / "more"), "adapter_name_or_path": str(tmp_path / "out"), "max_steps": 2}
    with pytest.raises(ModelError, match=r"lm_head.weight is \[\d+, 32\] there and \[448, 32\] in the adapter; .*add_tokens"):
        start(again, tmp_path)
    assert start(again, tmp_path, add_tokens="<one>") == 0
    assert json.loads((tmp_path / "more" / "plan.json").read_text())["num_trained"] == before


def test_a_metric_that_is_not_measured_is_told_before_the_first_step(tiny_run, tmp_path):
    asked = {"val_size": 0.2, "eval_strategy": "steps", "eval_steps": 2, "metric_for_best_model": "accuracy"}
    asked |= {"load_best_model_at_end": True, "save_strategy": "steps", "save_steps": 2}
    with pytest.raises(TrainingError, match=r"eval_accuracy is not measured; there are eval_loss, eval_perplexity"):
        start(tiny_run, tmp_path, **asked)
    assert not (tmp_path / "out" / "trainer_log.jsonl").exists()


def test_an_adapter_written_over_a_full_model_stands_there_alone(tiny_run, tmp_path):
    full = {key: value for key, value in tiny_run.items() if key != "lora_target"}
    assert start(full, tmp_path, finetuning_type="full", max_steps=2) == 0
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert start(tiny_run, tmp_path, overwrite_output_dir=True, max_steps=2) == 0
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert "adapter_model.safetensors" in left and not left & {"model.safetensors", "config.json"}


def test_text_without_a_token_to_learn_is_told_and_the_plan_counts_what_is_learned(tiny_run, tmp_path):
    folder = Path(tiny_run["dataset_dir"])
    (folder / "words.txt").write_text("a b c d e f\n")
    (folder / "dataset_info.json").write_text(json.dumps({"words": {"file_name": "words.txt", "columns": {"prompt": "text"}}}))
    asked = {**tiny_run, "stage": "pt", "dataset": "words", "packing": False, "gradient_accumulation_steps": 1}
    asked |= {"per_device_train_batch_size": 1, "save_strategy": "steps", "max_steps": -1, "num_train_epochs": 1}
    with pytest.raises(DataError, match="nothing to learn"):
        start(asked, tmp_path, cutoff_len=1)
    for cutoff in range(2, 9):  # one of these lengths leaves a last piece of one token, which nothing precedes
        output_dir = tmp_path / f"out{cutoff}"
        assert start(asked, tmp_path, output_dir=str(output_dir), cutoff_len=cutoff, overlong="split") == 0
        plan = json.loads((output_dir / "plan.json").read_text())
        state = json.loads((output_dir / "trainer_state.json").read_text())
        assert state["hone"]["trained_tokens"] == plan["trained_tokens_per_epoch"]


def test_a_step_without_a_trained_token_names_its_rows():
    class Alone:
        total = staticmethod(list)

    batch = SimpleNamespace(known=SimpleNamespace(rows=[3], num_tokens=4))
    work = SimpleNamespace(
        device=Alone(),
        objective=SimpleNamespace(count=lambda batch: 0),
        name_rows=lambda rows: f"rows {rows}",
        portions=SimpleNamespace(doubts=lambda batches: False),
    )
    with pytest.raises(TrainingError, match=r"nothing to learn from.*Its rows: rows \[3\]\."):
        loop.take_step(work, [MicroBatch(batch, True)])


@pytest.fixture
def with_a_best(tiny_run, tmp_path) -> dict[str, Any]:
    """Settings of a run of 8 steps that keeps the best, which is not its newest checkpoint."""
    asked = {"val_size": 5, "eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
    asked |= {"load_best_model_at_end": True, "save_total_limit": 2, "lr_scheduler_type": "constant", "warmup_steps": 0}
    settings = {**tiny_run, **asked, "learning_rate": 0.3}
    assert start(settings, tmp_path, max_steps=4) == 0
    state = Path(settings["output_dir"]) / "checkpoint-4" / "trainer_state.json"
    noted = json.loads(state.read_text())
    noted["hone"] |= {"best_metric": 0.1, "best_checkpoint": str(Path(settings["output_dir"]) / "checkpoint-2")}
    state.write_text(json.dumps(noted))
    reseal(state.parent)
    return settings


def reseal(folder: Path) -> None:
    """Write the manifest of a checkpoint that a test changed."""
    about = json.loads((folder / checkpoint.MANIFEST).read_text())
    about["files"] = {name: checkpoint._describe(folder / name) for name in about["files"]}
    (folder / checkpoint.MANIFEST).write_text(json.dumps(about))


def test_the_best_checkpoint_moves_with_its_folder(with_a_best, tmp_path):
    moved = tmp_path / "moved"
    shutil.move(with_a_best["output_dir"], moved)
    assert start(with_a_best, tmp_path, output_dir=str(moved), max_steps=8) == 0
    assert sorted(path.name for path in moved.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-8"]
    assert largest_difference(weights_of(moved), weights_of(moved / "checkpoint-2")) == 0.0
    assert json.loads((moved / "trainer_state.json").read_text())["best_model_checkpoint"] == str(moved / "checkpoint-2")


def test_a_best_checkpoint_that_is_gone_is_told_before_the_first_step(with_a_best, tmp_path):
    shutil.rmtree(tmp_path / "out" / "checkpoint-2")
    with pytest.raises(CheckpointError, match=r"checkpoint-2, the best so far, cannot be loaded: there is no such folder"):
        start(with_a_best, tmp_path, max_steps=8)
    assert start(with_a_best, tmp_path, max_steps=8, load_best_model_at_end=False) == 0


def stopping_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send this process SIGTERM as step `step` begins."""
    real, steps = loop.take_step, itertools.count(1)

    def signalled(*args, **kwargs):
        if next(steps) == step:
            signal.raise_signal(signal.SIGTERM)
        return real(*args, **kwargs)

    monkeypatch.setattr(loop, "take_step", signalled)


def test_a_stop_saves_all_that_is_needed_to_go_on_also_where_checkpoints_hold_the_model_alone(tiny_run, tmp_path, monkeypatch):
    settings = {**tiny_run, "save_strategy": "steps", "save_steps": 4, "save_only_model": True}
    with monkeypatch.context() as patch:
        stopping_after(2, patch)
        assert start(settings, tmp_path) == 128 + signal.SIGTERM
    folder = Path(settings["output_dir"])
    (stopped,) = folder.glob("checkpoint-*")
    assert (stopped / "optimizer.pt").is_file() and not (folder / "adapter_model.safetensors").exists()
    assert start(settings, tmp_path) == 0
    assert not (folder / "checkpoint-4" / "optimizer.pt").exists()


def test_a_stop_while_the_model_is_written_leaves_the_model(tiny_run, tmp_path, monkeypatch):
    real = Keeper.finish

    def signalled(keeper: Keeper) -> None:
        signal.raise_signal(signal.SIGTERM)
        real(keeper)

    monkeypatch.setattr(Keeper, "finish", signalled)
    assert start(tiny_run, tmp_path, max_steps=2) == 0
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


def test_an_overflow_that_does_not_end_stops_the_run(monkeypatch):
    result = StepResult(1.0, math.inf, 0.1, 1, 1, 1, stop=False, skipped=True)
    monkeypatch.setattr(loop, "take_step", lambda *args, **kwargs: result)
    portions = SimpleNamespace(forget=lambda: None)
    work = SimpleNamespace(policy=SimpleNamespace(module=torch.nn.Linear(1, 1)), portions=portions)
    progress, observer = Progress(), SimpleNamespace(stepped=lambda *_: False)
    with pytest.raises(TrainingError, match="fp16: the gradient overflowed in 41 steps"):
        loop.fit(work, [[]] * 100, progress, observer, lambda: False)
    assert progress.step == 40
