"""Steps, cadences, launch commands and plots: the arithmetic a plan is made of."""

from __future__ import annotations

import json
import math

import pytest

from hone.config.environment import Environment, read_environment
from hone.config.model import ModelConfig
from hone.config.run import Run
from hone.config.train import TrainConfig
from hone.errors import TrainingError
from hone.training.planning import plan
from hone.training.processes.elastic import shared_out
from hone.training.processes.launch import child_variables, count_world, torchrun_words, wants_launch
from hone.training.progress import Progress
from hone.training.results import plot_history, smooth, write_metrics


@pytest.mark.parametrize(
    ("every", "steps", "expected"), [(500, 10, 500), (0.1, 95, 10), (0.001, 10, 1), (None, 10, 0), (7, 3, 7)]
)
def test_cadence(every, steps, expected):
    assert plan.cadence(every, steps) == expected


def test_steps_follow_hugging_face():
    assert plan.count_steps(TrainConfig(num_train_epochs=2.5), 3) == (8, pytest.approx(8 / 3))
    assert plan.count_steps(TrainConfig(max_steps=5, num_train_epochs=1), 3) == (5, pytest.approx(5 / 3))
    with pytest.raises(TrainingError, match="dataloader_drop_last: false"):
        plan.count_steps(TrainConfig(), 0)


def test_evaluation_and_saving_by_step_or_epoch():
    train = TrainConfig(eval_strategy="steps", logging_steps=7, save_strategy="epoch")
    assert plan.eval_every(train, 100, 20) == 7
    assert plan.save_every(train, 100, 20) == 20
    assert plan.eval_every(TrainConfig(eval_strategy="no", eval_steps=3), 100, 20) == 0


def test_precision_is_what_was_asked():
    assert [plan.precision_of(TrainConfig(**{key: True})) for key in ("bf16", "pure_bf16", "fp16", "do_eval")] == [
        "bf16",
        "bf16",
        "fp16",
        "no",
    ]


def test_a_time_is_told_as_a_span_of_two_digits():
    assert plan.in_words(0.4) == "0.36 to 0.68 seconds"
    assert plan.in_words(100) == "90 to 170 seconds"
    assert plan.in_words(600) == "9 to 17 minutes"
    assert plan.in_words(36_000) == "9 to 17 hours" and plan.in_words(3_600_000) == "900 to 1,700 hours"


def said(**variables: str) -> Environment:
    return read_environment(variables)[0]


def test_launch_keeps_arguments_whole_and_the_port_fixed():
    words = torchrun_words(said(NPROC_PER_NODE="2"), ["train", "my run.yaml"])
    assert words[:2] == ["--nproc_per_node", "2"]
    assert words[-4:] == ["-m", "hone", "train", "my run.yaml"]
    assert words[words.index("--master_port") + 1] == "29500"
    elastic = torchrun_words(said(RDZV_ID="7", MIN_NNODES="1", MAX_NNODES="3", MAX_RESTARTS="2"), ["train"])
    assert elastic[elastic.index("--nnodes") + 1] == "1:3"
    assert elastic[elastic.index("--max_restarts") + 1] == "2"


def test_launch_says_who_holds_the_rendezvous_and_restarts_on_one_machine_too():
    here = torchrun_words(said(RDZV_ID="7", NNODES="2", MASTER_ADDR="127.0.0.2"), ["train"], join_timeout=9)
    assert here[here.index("--rdzv_conf") + 1] == "is_host=true,join_timeout=9"
    there = torchrun_words(said(RDZV_ID="7", NNODES="2", MASTER_ADDR="192.0.2.1"), ["train"])
    assert there[there.index("--rdzv_conf") + 1].startswith("is_host=false")
    alone = torchrun_words(said(NPROC_PER_NODE="2", MAX_RESTARTS="3"), ["train"])
    assert alone[alone.index("--max_restarts") + 1] == "3"


def test_fewer_machines_accumulate_more_and_a_step_stays_the_same():
    train = TrainConfig(per_device_train_batch_size=2, gradient_accumulation_steps=3)
    run = Run(model=ModelConfig(model_name_or_path="x"), train=train)
    elastic = said(RDZV_ID="7", MIN_NNODES="1", MAX_NNODES="3")

    def batch(world: int, *, fixed: bool = False, run: Run = run) -> tuple[int, int]:
        found = shared_out(run, elastic, fixed=fixed, variables={"LOCAL_WORLD_SIZE": "4", "WORLD_SIZE": str(world)}).train
        return found.per_device_train_batch_size, found.gradient_accumulation_steps

    # 2 x 3 x 12 processes = 72 sequences a step
    assert [batch(world) for world in (12, 8, 4)] == [(2, 3), (1, 9), (2, 9)]
    with pytest.raises(TrainingError, match="the 72 sequences of a step are no multiple of 8"):
        batch(8, fixed=True)
    three = run.model_copy(update={"train": train.model_copy(update={"per_device_train_batch_size": 1})})
    with pytest.raises(TrainingError, match=r"no multiple of 8\. Let per_device_train_batch_size x gradient_accumulation_steps"):
        batch(8, run=three)
    assert shared_out(run, said(), fixed=False, variables={"WORLD_SIZE": "4"}) is run


def test_launch_is_wanted_once_only():
    assert wants_launch(said(FORCE_TORCHRUN="1"), use_cpu=True)
    assert not wants_launch(said(FORCE_TORCHRUN="1", RANK="0", WORLD_SIZE="2", LOCAL_RANK="0"), use_cpu=True)
    assert not wants_launch(said(FORCE_TORCHRUN="1", TORCHELASTIC_RUN_ID="1"), use_cpu=True)
    assert not wants_launch(said(), use_cpu=True)


def test_a_check_counts_the_processes_that_training_will_have():
    assert count_world(said(FORCE_TORCHRUN="1", NPROC_PER_NODE="2", NNODES="3"), use_cpu=True) == 6
    assert count_world(said(NPROC_PER_NODE="2"), use_cpu=True) == 1


def test_optim_torch_tunes_the_processes_and_leaves_what_the_user_said():
    mine = {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64"}
    assert child_variables(said(), mine) == {**mine, "TORCH_NCCL_AVOID_RECORD_STREAMS": "1"}
    assert child_variables(said(OPTIM_TORCH="0"), {}) == {}


def test_smoothing_starts_at_the_first_value_and_keeps_a_constant():
    assert smooth([3.0, 3.0, 3.0]) == pytest.approx([3.0, 3.0, 3.0])
    assert smooth([1.0, 2.0])[1] == pytest.approx((0.9 * 0.1 * 1 + 0.1 * 2) / (1 - 0.81))


def test_results_are_merged_and_plots_drawn(tmp_path):
    write_metrics(tmp_path, "train", {"train_loss": 1.0})
    write_metrics(tmp_path, "eval", {"eval_loss": 2.0})
    assert '"train_loss": 1.0' in (tmp_path / "all_results.json").read_text()
    history = [{"loss": 3.0 / step, "step": step} for step in range(1, 20)] + [{"eval_loss": 1.0, "step": 5}]
    drawn = plot_history(tmp_path, history)
    assert [path.name for path in drawn] == ["training_eval_loss.png", "training_loss.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)


def test_progress_survives_its_file():
    before = Progress(step=3, tokens=70, losses=[1.5], log_history=[{"loss": 2.0, "step": 1}], loss_sum=math.pi)
    state = before.to_state(num_steps=10, steps_per_epoch=4, num_epochs=2.5)
    assert state["global_step"] == 3 and state["epoch"] == 0.75 and state["max_steps"] == 10
    assert Progress.from_state(json.dumps(state)) == before


def test_the_best_metric_is_noted_both_ways():
    progress = Progress()
    assert [progress.improve(value, greater_is_better=False) for value in (2.0, 3.0, 1.0)] == [True, False, True]
    assert progress.stale_evaluations == 0
    assert not progress.improve(0.5, greater_is_better=True)
    assert progress.stale_evaluations == 1


def test_a_metric_that_is_not_a_number_is_never_the_best():
    progress = Progress()
    values = (math.nan, 2.0, math.nan, 1.0, -math.inf)
    assert [progress.improve(value, greater_is_better=False) for value in values] == [False, True, False, True, False]
    assert progress.best_metric == 1.0 and progress.stale_evaluations == 1
