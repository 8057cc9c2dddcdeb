"""Settings of FSDP as transformers and accelerate write them: each line is meant, or refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from hone.config import read, to_yaml
from hone.config.environment import read_environment
from hone.config.sharding import KEYS, Sharding, read_sharding, sharding_of
from hone.errors import ConfigError

NEEDED = ["model_name_or_path=m", "output_dir=o", "dataset=d"]


def sharding(*words: str) -> Sharding:
    return sharding_of(read([*NEEDED, *words], "train").run.parallel)


def test_words_of_transformers():
    assert sharding("fsdp=true") == sharding("fsdp=full_shard auto_wrap") == Sharding()
    assert sharding("fsdp=shard_grad_op offload") == Sharding(reshard=False, offload=True)
    assert sharding("fsdp=[hybrid_shard, auto_wrap]") == Sharding(hybrid=True)
    assert read([*NEEDED, "fsdp=false"], "train").run.parallel.engine == "ddp"


def test_every_line_of_fsdp_config_is_meant_or_refused():
    config = {
        "fsdp_version": 1, "sharding_strategy": "SHARD_GRAD_OP", "fsdp_offload_params": True, "forward_prefetch": "true",
        "cpu_ram_efficient_loading": True, "state_dict_type": "SHARDED_STATE_DICT", "transformer_layer_cls_to_wrap": "A,B",
        "use_orig_params": True, "sync_module_states": True, "limit_all_gathers": True, "backward_prefetch": "BACKWARD_PRE",
        "activation_checkpointing": False, "min_num_params": 0, "xla": False,
    }  # fmt: skip
    found, findings = read_sharding(("true",), config)
    assert not findings
    assert found == Sharding(
        reshard=False, offload=True, ahead=True, one_loads=True, sharded=True, units=("A", "B"), recomputes=False
    )
    wrong = {
        "use_orig_params": False, "auto_wrap_policy": "SIZE_BASED_WRAP", "min_num_params": 10, "ignored_modules": "lm_head",
        "backward_prefetch": "BACKWARD_POST", "state_dict_type": "LOCAL_STATE_DICT", "sharding_strategy": "NO_SHARD",
        "xla": True, "cpu_offload": "maybe", "reshrad_after_forward": True,
    }  # fmt: skip
    _, findings = read_sharding(("true",), wrong)
    assert [message.split(":")[0] for _, message in findings] == list(wrong)
    assert "reshard_after_forward" in findings[-1][1]
    assert all(key in KEYS for key in (*config, *wrong) if key.startswith("fsdp_") is False and key != "reshrad_after_forward")


@pytest.mark.parametrize("name", ["fsdp2_config.yaml", "fsdp2_config_qwen35_moe.yaml", "fsdp_config_multiple_nodes.yaml"])
def test_a_file_of_accelerate_turns_fsdp_on(shared: Path, name: str, tmp_path: Path):
    loaded = read([*NEEDED, f"fsdp_config={shared / 'llamafactory_examples/accelerate' / name}"], "train")
    found = sharding_of(loaded.run.parallel)
    assert loaded.run.parallel.engine == "fsdp" and loaded.run.train.bf16 is True and found.one_loads and found.reshard
    assert ("Qwen3_5MoeDecoderLayer" in found.units) == ("moe" in name)
    assert any("num_processes" in note and "NPROC_PER_NODE" in note for note in loaded.notes)
    (tmp_path / "run.yaml").write_text(to_yaml(loaded.run), encoding="utf-8")
    assert read([str(tmp_path / "run.yaml")], "train").run == loaded.run


def test_a_file_of_accelerate_that_is_of_something_else_is_told(tmp_path: Path):
    file = tmp_path / "a.yaml"
    file.write_text(yaml.safe_dump({"distributed_type": "DEEPSPEED", "mixed_precision": "fp16", "dynamo_config": {"a": 1}}))
    with pytest.raises(ConfigError) as caught:
        read([*NEEDED, "bf16=true", f"fsdp_config={file}"], "train")
    told = str(caught.value)
    assert "under deepspeed" in told and "dynamo_config" in told and "bf16 is written" in told


def test_accelerate_launch_is_recognised(monkeypatch: pytest.MonkeyPatch):
    variables = {
        "ACCELERATE_USE_FSDP": "true", "ACCELERATE_MIXED_PRECISION": "bf16", "FSDP_VERSION": "2", "FSDP_SHARDING_STRATEGY": "1",
        "FSDP_RESHARD_AFTER_FORWARD": "false", "FSDP_OFFLOAD_PARAMS": "true", "FSDP_USE_ORIG_PARAMS": "false",
        "FSDP_ACTIVATION_CHECKPOINTING": "true", "RANK": "0", "WORLD_SIZE": "2",
    }  # fmt: skip
    for name, text in variables.items():
        monkeypatch.setenv(name, text)
    assert read_environment()[0].sharding
    run = read(NEEDED, "train").run
    assert sharding_of(run.parallel) == Sharding(reshard=False, offload=True, recomputes=True)
    assert run.train.bf16 is True and run.train.gradient_checkpointing is True
    with pytest.raises(ConfigError, match="accelerate launch was told of FSDP too"):
        read([*NEEDED, "fsdp=true"], "train")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["fsdp_config={}", "fsdp_transformer_layer_cls_to_wrap=A"], "has no effect without fsdp"),
        (["fsdp=true", "quantization_bit=8"], "write quantization_bit: 4"),
        (["fsdp=true", "quantization_bit=4", 'fsdp_config={"cpu_ram_efficient_loading": true}'], "leave it out"),
        (["context_parallel_size=2", "stage=rm", "dataset=d"], "it goes with pt, sft, dpo, kto"),
        (["context_parallel_size=2", "tensor_parallel_size=2", "finetuning_type=full"], "remove one of them"),
        (["context_parallel_size=2", "flash_attn=sdpa"], "leave flash_attn out"),
        (["fsdp=true", "do_predict=true", "do_train=true", "eval_dataset=d"], "predict by another run"),
        (["fsdp=true", "stage=grpo", "reward_functions=accuracy"], "leave fsdp out"),
        (["tensor_parallel_size=2"], "finetuning_type: full"),
        (["fsdp=true", "optim=adafactor"], "adamw_torch"),
        (["fsdp=true", "optim=paged_adamw_8bit"], "adamw_torch"),
        (["fsdp=true", "ddp_bucket_cap_mb=1"], "has no effect with fsdp"),
        (["fsdp=true", "gradient_checkpointing=false", 'fsdp_config={"activation_checkpointing": true}'], "remove one of them"),
    ],
)
def test_what_does_not_go_with_shards_is_told(words, told):
    with pytest.raises(ConfigError, match=told):
        read([*NEEDED, *words], "train")
