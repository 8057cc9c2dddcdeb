"""DeepSpeed's fields: each that is known does something, and every other is told with what to write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hone.config import read
from hone.config.zero import zero_of
from hone.errors import ConfigError

BASE = ["model_name_or_path=m", "output_dir=o", "dataset=d"]


def deepspeed(fields: dict[str, Any], *words: str):
    return read([*BASE, f"deepspeed={json.dumps(fields)}", *words], "train")


def faults_of(fields: dict[str, Any], *words: str) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        deepspeed(fields, *words)
    return {mistake.key: mistake.message for mistake in caught.value.mistakes}


@pytest.mark.parametrize(
    ("name", "engine", "stage", "offloads", "cpu_adam"),
    [
        ("ds_z0_config", "ddp", 0, False, False),
        ("ds_z2_config", "zero", 2, False, False),
        ("ds_z2_offload_config", "zero", 2, True, False),
        ("ds_z3_config", "zero", 3, False, False),
        ("ds_z3_fp8_config", "zero", 3, True, True),
        ("ds_z3_offload_config", "zero", 3, True, False),
    ],
)
def test_the_files_that_go_about(shared: Path, name: str, engine: str, stage: int, offloads: bool, cpu_adam: bool):
    path = shared / f"llamafactory_examples/deepspeed/{name}.json"
    parallel = read([*BASE, f"deepspeed={path}", "bf16=true"], "train").run.parallel
    zero = zero_of(parallel.deepspeed)
    assert parallel.engine == engine and (zero.stage, zero.offloads, zero.forces_cpu_adam) == (stage, offloads, cpu_adam)
    assert parallel.deepspeed == json.loads(path.read_text()), "the run's own copy of its settings says what the file says"


def test_tensor_parallelism_is_refused_by_name(shared: Path):
    path = shared / "llamafactory_examples/deepspeed/ds_z2_autotp_config.json"
    with pytest.raises(ConfigError, match="tensor_parallel: DeepSpeed's automatic tensor parallelism is not in this version"):
        read([*BASE, f"deepspeed={path}"], "train")


Z2, Z3 = {"zero_optimization": {"stage": 2}}, {"zero_optimization": {"stage": 3}}


@pytest.mark.parametrize(
    ("fields", "words", "key", "said"),
    [
        ({"zero_optimisation": {"stage": 2}}, (), "deepspeed", 'did you mean "zero_optimization"'),
        ({"zero_optimization": {"stage": 2, "stage3_gather": 1}}, (), "deepspeed", "zero_optimization.stage3_gather: unknown"),
        ({"zero_optimization": {"stage": 4}}, (), "deepspeed", "saw 4, wanted 0, 1, 2 or 3"),
        ({"zero_optimization": {"stage": 2, "zenflow": {}}}, (), "deepspeed", "zenflow: is not in this version"),
        ({**Z2, "scheduler": {"type": "WarmupLR"}}, (), "deepspeed", "write lr_scheduler_type"),
        ({**Z2, "activation_checkpointing": {}}, (), "deepspeed", "write gradient_checkpointing"),
        ({**Z2, "wandb": {"enabled": True}}, (), "deepspeed", "write report_to: wandb"),
        ({**Z2, "train_batch_size": 16}, (), "deepspeed", "write auto, or leave it out"),
        ({**Z2, "gradient_clipping": 0.5}, (), "deepspeed", "saw 0.5, and max_grad_norm in the YAML is 1.0"),
        ({**Z2, "bf16": {"enabled": True}}, (), "deepspeed", "bf16.enabled: saw true, and bf16 in the YAML is false"),
        ({**Z2, "optimizer": {"type": "Lamb"}}, (), "deepspeed", "optimizer.type: Lamb is not in this version"),
        ({**Z2, "optimizer": {"type": "AdamW", "params": {"lr": 0.1}}}, (), "deepspeed", "optimizer.params.lr: saw 0.1"),
        ({**Z2, "optimizer": {"type": "AdamW", "params": {"betas": [0, 0]}}}, (), "deepspeed", "betas: [0, 0]"),
        (Z2, ("optim=adafactor",), "deepspeed", "optim: adafactor looks at a weight as a whole"),
        (Z2, ("pure_bf16=true",), "pure_bf16", "write bf16: true"),
        (Z2, ("ddp_bucket_cap_mb=5",), "ddp_bucket_cap_mb", "write reduce_bucket_size"),
        (Z2, ("save_async=true",), "save_async", "remove it"),
        (Z2, ("fsdp=true",), "fsdp", "remove one of them"),
        (Z2, ("tensor_parallel_size=2",), "tensor_parallel_size", "remove one of them"),
        (Z3, ("quantization_bit=4",), "quantization_bit", "write stage 2"),
        (Z3, ("stage=grpo", "reward_funcs=json"), "stage", "write stage 2"),
        (
            {"zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}}},
            (),
            "deepspeed",
            "has no effect with stage 2; write stage 3",
        ),
        (
            {"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme", "nvme_path": "/x"}}},
            (),
            "deepspeed",
            "nvme is not in this version; write cpu",
        ),
    ],
)
def test_a_field_that_has_no_place_is_told(fields: dict[str, Any], words: tuple[str, ...], key: str, said: str):
    with pytest.raises(ConfigError) as caught:
        deepspeed(fields, *words)
    assert any(mistake.key == key and said in mistake.message for mistake in caught.value.mistakes), caught.value


def test_what_asks_for_nothing_is_accepted_and_what_nobody_reads_is_said():
    fields = {**Z3, "_comment": "mine", "wandb": {"enabled": False, "team": "x"}, "tensor_parallel": {"autotp_size": 1}}
    assert deepspeed(fields).notes == ()
    loaded = deepspeed({"comms_config": {}, "zero_optimization": {"stage": 1, "round_robin_gradients": True}})
    assert ["read by nobody" in note or "is left off" in note for note in loaded.notes] == [True, True]
    assert "is DDP" in deepspeed({"zero_optimization": {"stage": 0}}).notes[0]


def test_auto_takes_the_runs_own():
    """Hugging Face's sizes from the width of the hidden states; the loop alone knows batches, accumulation and clipping."""
    fields = {
        "zero_optimization": {
            "stage": 3,
            "reduce_bucket_size": "auto",
            "stage3_prefetch_bucket_size": "auto",
            "sub_group_size": 7,
        },
        "fp16": {"enabled": "auto", "hysteresis": 3},
        "gradient_clipping": "auto",
        "prescale_gradients": True,
    }
    filled = zero_of(deepspeed(fields, "bf16=true").run.parallel.deepspeed).filled(precision="bf16", width=100)
    zero = filled["zero_optimization"]
    assert (zero["reduce_bucket_size"], zero["stage3_prefetch_bucket_size"], zero["sub_group_size"]) == (10_000, 9_000, 7)
    assert filled["bf16"] == {"enabled": True} and filled["fp16"] == {"enabled": False, "hysteresis": 3}
    assert filled["prescale_gradients"] is True and filled["gradient_accumulation_steps"] == 1


def test_ray_is_asked_for_by_a_key_or_by_the_environment(monkeypatch: pytest.MonkeyPatch):
    words = ["ray_num_workers=2", "resources_per_worker={CPU: 1}"]
    with pytest.raises(ConfigError, match="ray_num_workers: has no effect without use_ray: true"):
        read([*BASE, words[0]], "train")
    parallel = read([*BASE, *words[:1], "use_ray=true"], "train").run.parallel
    assert parallel.use_ray and parallel.ray_num_workers == 2
    monkeypatch.setenv("USE_RAY", "1")
    assert read([*BASE, words[0]], "train").run.parallel == parallel
