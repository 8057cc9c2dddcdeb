"""LLaMA-Factory's own example files: what concerns this version loads, the rest says precisely why not."""

from __future__ import annotations

from pathlib import Path

import pytest

from hone.config import read, to_yaml
from hone.errors import ConfigError

ACCELERATE = (
    "model_name_or_path output_dir dataset compute_environment distributed_type fsdp_config mixed_precision num_machines "
)
ACCELERATE += "num_processes rdzv_backend same_network"
NODES = ACCELERATE + " downcast_bf16 machine_rank main_training_function"
V1 = "model_name_or_path dataset model model_class dist_config train_dataset micro_batch_size"
MEGATRON = "pipeline_model_parallel_size expert_model_parallel_size bias_activation_fusion apply_rope_fusion moe_grouped_gemm "
MEGATRON += "moe_token_dispatcher_type recompute_granularity"
FP8 = "fp8 fp8_backend fp8_enable_fsdp_float8_all_gather"
PIXELS = "video_max_pixels"
LOADS = ""
EXPECTED = {  # file: the keys that are refused
    "accelerate/fsdp2_config.yaml": NODES,
    "accelerate/fsdp2_config_qwen35_moe.yaml": NODES,
    "accelerate/fsdp_config_multiple_nodes.yaml": NODES + " main_process_ip main_process_port",
    "ascend/qwen3_5_full_sft_fsdp2.yaml": "use_v1_kernels",
    "ascend/qwen3_full_sft_fsdp2.yaml": "use_v1_kernels",
    "ascend/qwen3vlmoe_full_sft_fsdp2.yaml": "video_max_pixels use_v1_kernels",
    "extras/adam_mini/qwen2_full_sft.yaml": "use_adam_mini",
    "extras/asft/llama2_full_asft.yaml": LOADS,
    "extras/badam/llama3_full_sft.yaml": "use_badam badam_verbose",
    "extras/eaft/qwen25_05b_eaft_full.yaml": LOADS,
    "extras/fp8/llama3_fp8_fsdp_sft.yaml": FP8,
    "extras/galore/llama3_full_sft.yaml": "use_galore galore_layerwise galore_rank",
    "extras/loraplus/llama3_lora_sft.yaml": LOADS,
    "extras/nlg_eval/llama3_lora_predict.yaml": LOADS,
    "extras/oft/qwen2_5vl_oft_sft.yaml": PIXELS,
    "extras/qoft/llama3_oft_sft_awq.yaml": LOADS,
    "extras/qoft/llama3_oft_sft_gptq.yaml": LOADS,
    "inference/qwen3.yaml": LOADS,
    "inference/qwen3_lora_sft.yaml": LOADS,
    "ktransformers/accelerate/fsdp2_kt_bf16.yaml": ACCELERATE,
    "ktransformers/accelerate/fsdp2_kt_int8.yaml": ACCELERATE,
    "ktransformers/accelerate/fsdp2_kt_int8_8gpu.yaml": ACCELERATE,
    "ktransformers/train_lora/deepseek_v3_int8_lora_sft_kt.yaml": "use_kt kt_cpu_activation kt_weight_path "
    "kt_non_expert_weight_path kt_config",
    "ktransformers/train_lora/qwen3_5moe_lora_sft_kt.yaml": "use_kt kt_cpu_activation kt_config",
    "ktransformers/train_lora/qwen3vlmoe_lora_sft_kt.yaml": PIXELS + " use_kt kt_cpu_activation kt_config",
    "megatron/qwen3_moe_full.yaml": MEGATRON,
    "merge_lora/mossvl_lora_sft.yaml": LOADS,
    "merge_lora/qwen3_gptq.yaml": LOADS,
    "merge_lora/qwen3_lora_sft.yaml": LOADS,
    "merge_lora/qwen3vl_lora_sft.yaml": LOADS,
    "train_full/qwen3_full_sft.yaml": LOADS,
    "train_lora/mossvl_lora_sft.yaml": "video_max_pixels video_fps video_maxlen",
    "train_lora/qwen3_lora_dpo.yaml": LOADS,
    "train_lora/qwen3_lora_kto.yaml": LOADS,
    "train_lora/qwen3_lora_reward.yaml": LOADS,
    "train_lora/qwen3_lora_sft.yaml": LOADS,
    "train_lora/qwen3_lora_sft_ds3.yaml": LOADS,
    "train_lora/qwen3_preprocess.yaml": LOADS,
    "train_lora/qwen3vl_lora_sft.yaml": "video_max_pixels",
    "train_qlora/llama3_lora_sft_awq.yaml": LOADS,
    "train_qlora/qwen3_lora_sft_bnb_npu.yaml": LOADS,
    "v1/train_batching_strategy/train_full_fsdp2_batching_normal.yaml": V1 + " kernel_config batching_strategy sample_backend",
    "v1/train_batching_strategy/train_full_fsdp2_dynamic_padding_free.yaml": V1
    + " kernel_config batching_strategy sample_backend",
    "v1/train_freeze/train_freeze_sft.yaml": V1 + " peft_config kernel_config sample_backend",
    "v1/train_full/train_full_fsdp2.yaml": V1 + " kernel_config sample_backend",
    "v1/train_full/train_full_muon.yaml": V1 + " optim_config sample_backend",
    "v1/train_full/train_full_ulysses_cp.yaml": V1 + " cp_mode cp_size",
    "v1/train_lora/export_lora.yaml": "model_name_or_path output_dir dataset model peft_config",
    "v1/train_lora/train_lora_sft.yaml": V1 + " peft_config kernel_config sample_backend",
    "v1/train_qlora/quantization.yaml": V1 + " peft_config kernel_config quant_config sample_backend",
}
ADVICE = ("write", "leave it out", "remove", "lower", "set ", "unset", "download")
NOT_SETTINGS = "extras/multi_tokens/tokens_cfg.yaml"  # a table of tokens, every key of which is unknown


def verb_of(name: str) -> str:
    return {"merge_lora": "export", "inference": "chat"}.get(name.split("/")[0], "train")


@pytest.mark.parametrize("name", [*EXPECTED, NOT_SETTINGS])
def test_every_example_loads_or_says_why_not(shared: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "examples").symlink_to(shared / "llamafactory_examples")
    monkeypatch.chdir(tmp_path)  # as from the folder that the examples lie in: some name others by their path
    path = shared / "llamafactory_examples" / name
    if EXPECTED.get(name) == LOADS:
        loaded = read([str(path)], verb_of(name))
        for only in (None, loaded.written):
            (tmp_path / "run.yaml").write_text(to_yaml(loaded.run, only=only), encoding="utf-8")
            assert read([str(tmp_path / "run.yaml")], verb_of(name)).run == loaded.run
        return
    with pytest.raises(ConfigError) as caught:
        read([str(path)], verb_of(name))
    mistakes = caught.value.mistakes
    if name in EXPECTED:
        assert {mistake.key for mistake in mistakes} == set(EXPECTED[name].split())
    for mistake in mistakes:
        assert mistake.key and any(word in mistake.message for word in ADVICE), mistake


def test_no_example_is_left_out(shared: Path):
    folder = shared / "llamafactory_examples"
    assert {str(path.relative_to(folder)) for path in folder.rglob("*.yaml")} == {*EXPECTED, NOT_SETTINGS}


def test_the_values_of_an_example(shared: Path):
    run = read([str(shared / "llamafactory_examples/train_lora/qwen3_lora_sft.yaml")], "train").run
    assert run.data.dataset == ("identity", "alpaca_en_demo") and run.data.cutoff_len == 2048
    assert run.adapter.kind == "lora" and run.adapter.lora_rank == 8 and run.adapter.lora_target == ("all",)
    assert run.optimizer.learning_rate == 1e-4 and run.optimizer.lr_scheduler_type == "cosine"
    assert run.train.bf16 and run.track.report_to == () and run.parallel.ddp_timeout == 180000000
    bnb = read([str(shared / "llamafactory_examples/train_qlora/qwen3_lora_sft_bnb_npu.yaml")], "train").run
    assert bnb.model.quantization.bit == 4 and not bnb.model.quantization.double
