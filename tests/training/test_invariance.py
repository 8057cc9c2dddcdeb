"""A loss means the same whatever the micro-batch, accumulation, layout and number of processes; a run is continued exactly.

Tolerance of invariance: fp32 sums in another order; 1e-5 in losses, 2e-5 in weights after 6 steps at learning rate 0.01
(see test_parity). Resume is compared with no tolerance at all.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from hone.commands import train
from hone.errors import CheckpointError, ModelError, TrainingError
from hone.kernels.tolerance import rounding_of
from hone.models import selftest
from hone.models.policy import Policy
from hone.training import loop
from hone.training.checkpoints import checkpoint
from hone.training.feed import MicroBatch
from tests.families import tiny
from tests.runs import largest_difference, losses_of, make_rows, weights_of, write_run


def run(settings: dict, tmp_path: Path, name: str, **changes: object) -> Path:
    """Train with `changes` into a folder of its own; returns the folder."""
    folder = tmp_path / name
    path = write_run({**settings, "output_dir": str(folder), **changes}, tmp_path / f"{name}.yaml")
    assert train.main([str(path)]) == 0
    return folder


@pytest.fixture
def baseline(tiny_run, tmp_path) -> Path:
    return run(tiny_run, tmp_path, "baseline", max_steps=6, per_device_train_batch_size=4, gradient_accumulation_steps=1)


@pytest.mark.parametrize(("micro", "accumulation"), [(1, 4), (2, 2)])
def test_micro_batches_change_nothing(micro, accumulation, tiny_run, tmp_path, baseline):
    other = run(
        tiny_run,
        tmp_path,
        "other",
        max_steps=6,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=accumulation,
    )
    assert losses_of(other) == pytest.approx(losses_of(baseline), abs=1e-5)
    assert largest_difference(weights_of(other), weights_of(baseline)) < 2e-5


def test_padding_changes_nothing(tiny_run, tmp_path, baseline, monkeypatch):
    tested = Policy.self_test

    def cannot_pack(policy: Policy):
        found = tested(policy)
        policy.can_pack = False
        return found

    monkeypatch.setattr(Policy, "self_test", cannot_pack)
    seen = []
    lay_out = loop.take_step

    def watch(work, batches, **more):
        seen.extend(micro.batch.ids_BT.shape[0] for micro in batches)
        return lay_out(work, batches, **more)

    monkeypatch.setattr(loop, "take_step", watch)
    other = run(tiny_run, tmp_path, "padded", max_steps=6, per_device_train_batch_size=4, gradient_accumulation_steps=1)
    assert max(seen) == 4, "the batches were not padded rows"
    assert losses_of(other) == pytest.approx(losses_of(baseline), abs=1e-5)
    assert largest_difference(weights_of(other), weights_of(baseline)) < 2e-5


def test_the_router_loss_of_experts_is_the_same_in_every_layout(tiny_run, tiny_tokenizer, tmp_path):
    settings = {**tiny_run, "model_name_or_path": str(tmp_path / "experts"), "finetuning_type": "full", "max_steps": 3}
    settings.pop("lora_target")
    tiny("mixtral", vocab_size=len(tiny_tokenizer), max_position_embeddings=512).save_pretrained(tmp_path / "experts")
    tiny_tokenizer.save_pretrained(tmp_path / "experts")
    learned = {**settings, "moe_aux_loss_coef": 0.5, "gradient_accumulation_steps": 1, "per_device_train_batch_size": 4}
    whole = run(learned, tmp_path, "whole")
    split = run({**learned, "gradient_accumulation_steps": 4, "per_device_train_batch_size": 1}, tmp_path, "split")
    without = run({**learned, "moe_aux_loss_coef": 0}, tmp_path, "without")
    assert losses_of(split) == pytest.approx(losses_of(whole), abs=1e-5)
    assert largest_difference(weights_of(split), weights_of(whole)) < 2e-5
    assert losses_of(whole)[0] > losses_of(without)[0] + 0.9, "0.5 times a loss of at least 2, in the logged loss"
    with pytest.raises(ModelError, match=r"moe_aux_loss_coef: 0.5: LlamaForCausalLM has no experts"):
        run({**tiny_run, "moe_aux_loss_coef": 0.5}, tmp_path, "dense")


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_resume_is_exact_in_the_middle_of_an_epoch(kind, tiny_run, tmp_path):
    settings = {**tiny_run, "finetuning_type": kind, "disable_shuffling": False, "save_strategy": "steps", "save_steps": 10}
    settings = {**settings, "max_steps": 20}
    if kind == "lora":
        settings["lora_dropout"] = 0.1
    else:
        settings.pop("lora_target")
    straight = run(settings, tmp_path, "straight")
    broken = tmp_path / "broken"
    shutil.copytree(straight / "checkpoint-10", broken / "checkpoint-10")
    resumed = run(settings, tmp_path, "broken")
    assert losses_of(resumed) == losses_of(straight)[10:]
    assert largest_difference(weights_of(resumed), weights_of(straight)) == 0.0
    state = json.loads((resumed / "trainer_state.json").read_text())
    assert [record["step"] for record in state["log_history"] if "loss" in record] == list(range(1, 21))


def test_an_unreadable_checkpoint_is_passed_over_and_a_named_one_refused(tiny_run, tmp_path, capsys):
    settings = {**tiny_run, "save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    folder = run(settings, tmp_path, "run")
    (folder / "checkpoint-4" / "optimizer.pt").write_bytes(b"rubbish")
    again = {**settings, "output_dir": str(folder)}
    path = write_run({**again, "resume_from_checkpoint": str(folder / "checkpoint-4")}, tmp_path / "named.yaml")
    with pytest.raises(CheckpointError, match=r"checkpoint-4 cannot be continued: optimizer.pt has 7 bytes.*checkpoint-2"):
        train.main([str(path)])
    assert train.main([str(write_run(again, tmp_path / "again.yaml"))]) == 0
    said = capsys.readouterr().err
    assert "passed over, not complete" in said and "continuing" in said and "checkpoint-2 at step 2 of 4" in said
    assert checkpoint.problem_of(folder / "checkpoint-4") == ""


def test_another_run_s_checkpoint_is_refused_by_name(tiny_run, tmp_path):
    settings = {**tiny_run, "save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    folder = run(settings, tmp_path, "run")
    changed = write_run({**settings, "output_dir": str(folder), "seed": 8, "lora_rank": 4}, tmp_path / "changed.yaml")
    with pytest.raises(
        CheckpointError,
        match="lora_rank: 8 there, 4 now\n  lora_alpha: 16 there, 8 now\n  data_seed: 7 there, 8 now\nPut",
    ):
        train.main([str(changed)])


def test_a_checkpoint_without_its_optimizer_is_refused(tiny_run, tmp_path):
    settings = {**tiny_run, "save_strategy": "steps", "save_steps": 2, "max_steps": 4, "save_only_model": True}
    folder = run(settings, tmp_path, "run")
    with pytest.raises(CheckpointError, match=r"no optimizer.pt .*save_only_model: true"):
        train.main([str(write_run({**settings, "output_dir": str(folder), "max_steps": 8}, tmp_path / "again.yaml"))])


def test_a_finished_model_is_not_overwritten_unasked(tiny_run, tmp_path):
    folder = run(tiny_run, tmp_path, "run", max_steps=2)
    again = {**tiny_run, "output_dir": str(folder), "max_steps": 2}
    with pytest.raises(CheckpointError, match="overwrite_output_dir: true"):
        train.main([str(write_run(again, tmp_path / "again.yaml"))])
    assert train.main([str(write_run({**again, "overwrite_output_dir": True}, tmp_path / "over.yaml"))]) == 0


def test_a_loss_that_is_not_a_number_stops_the_run_and_names_the_rows(tiny_run, tmp_path, monkeypatch):
    real, calls = Policy.token_logprobs, []

    def poisoned(policy, batch, **more):
        logprobs_BT = real(policy, batch, **more)
        if policy.module.training and 9 in getattr(batch, "rows", ()):
            calls.append(batch.rows)
            return logprobs_BT * float("nan")
        return logprobs_BT

    monkeypatch.setattr(Policy, "token_logprobs", poisoned)
    settings = {**tiny_run, "save_strategy": "steps", "save_steps": 1}
    with pytest.raises(TrainingError, match=r"the loss is nan.*last checkpoint is as it was") as caught:
        train.main([str(write_run(settings, tmp_path / "run.yaml"))])
    folder = Path(settings["output_dir"])
    assert len(calls) == 1 and f"Its rows: {', '.join(f'rows row {row}' for row in calls[0])}. " in str(caught.value)
    assert checkpoint.newest_complete(folder) == (folder / "checkpoint-2", [])


def test_best_checkpoint_is_kept_and_loaded(tiny_run, tmp_path):
    folder = run(
        tiny_run,
        tmp_path,
        "best",
        val_size=5,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        save_total_limit=1,
        load_best_model_at_end=True,
        max_steps=8,
        learning_rate=0.3,
        lr_scheduler_type="constant",
        warmup_steps=0,
        do_eval=True,
        early_stopping_steps=3,
    )
    state = json.loads((folder / "trainer_state.json").read_text())
    evaluations = {record["step"]: record["eval_loss"] for record in state["log_history"] if "eval_runtime" in record}
    best = min(evaluations, key=evaluations.get)
    assert state["best_model_checkpoint"] == str(folder / f"checkpoint-{best}")
    assert largest_difference(weights_of(folder), weights_of(folder / f"checkpoint-{best}")) == 0.0
    results = json.loads((folder / "eval_results.json").read_text())
    assert results["eval_loss"] == pytest.approx(state["best_metric"], abs=1e-6)


def test_outputs_have_their_known_names(tiny_run, tmp_path):
    folder = run(tiny_run, tmp_path, "out", max_steps=3, save_strategy="steps", save_steps=2, plot_loss=True)
    names = {path.name for path in folder.iterdir()}
    assert {
        "adapter_model.safetensors",
        "adapter_config.json",
        "trainer_log.jsonl",
        "train_results.json",
        "all_results.json",
    } <= names
    assert {"trainer_state.json", "training_loss.png", "run.yaml", "plan.json", "checkpoint-2", "checkpoint-3"} <= names
    assert {"tokenizer.json", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"} <= {
        path.name for path in (folder / "checkpoint-2").iterdir()
    }
    first = json.loads((folder / "trainer_log.jsonl").read_text().splitlines()[0])
    assert {"current_steps", "total_steps", "loss", "lr", "epoch", "percentage", "elapsed_time", "remaining_time"} <= first.keys()
    assert yaml.safe_load((folder / "run.yaml").read_text())["train"]["max_steps"] == 3


def test_rows_are_as_uneven_as_the_tests_need():
    lengths = {len(row["output"]) for row in make_rows(23)}
    assert len(lengths) > 10 and max(lengths) > 4 * min(lengths)


def test_a_bad_row_of_another_process_is_named_here():
    class Elsewhere:
        precision = "no"

        def gather(self, mine: object) -> list[object]:
            return [mine, ([7], [7, 8])]

    batch = SimpleNamespace(rows=[1, 2])
    work = SimpleNamespace(device=Elsewhere(), name_rows=lambda rows: f"rows {rows}")
    with pytest.raises(TrainingError, match=r"the loss is nan: .*Its rows: rows \[7\]\."):
        loop._require_finite(work, [MicroBatch(batch, True)], [0.5], math.nan, 1.0)


def test_in_bf16_the_self_test_knows_the_type_of_its_forwards(tiny_run, tmp_path, monkeypatch):
    """Weights in fp32 do not tell: their products are rounded to bf16, and such a difference is no sign of a leak."""
    tolerances, compare = [], selftest.compare

    def watched(policy: Policy) -> selftest.SelfTest:
        tolerances.append(selftest._tolerance(policy.causal.get_input_embeddings().weight))
        return compare(policy)

    monkeypatch.setattr("hone.models.layouts.compare", watched)
    full = {**{key: value for key, value in tiny_run.items() if not key.startswith("lora")}, "finetuning_type": "full"}
    run(full, tmp_path, "bf16", max_steps=3, bf16=True)
    run(full, tmp_path, "fp32", max_steps=3, bf16=False)
    assert tolerances == [rounding_of(torch.bfloat16), rounding_of(torch.float32)]
