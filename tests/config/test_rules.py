"""Rules between settings: each broken once, with the key and the remedy, and each kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from hone.config import read
from hone.config.knobs import knobs
from hone.config.needs import NEEDS
from hone.config.rules import verb_of
from hone.config.settings import Given, Settings
from hone.errors import ConfigError

BASE = "model_name_or_path=m output_dir=o dataset=d,e"

BROKEN = [  # settings, key of the only mistake, a part of its message
    ("per_device_train_batch_size=auto", "per_device_train_batch_size", "such as gradient_accumulation_steps: 16"),
    ('deepspeed={"zero_optimization":{"stage":1}} ddp_bucket_cap_mb=5', "ddp_bucket_cap_mb", "write reduce_bucket_size"),
    ("ray_num_workers=2", "ray_num_workers", "without use_ray: true"),
    ("finetuning_type=full lora_rank=4", "lora_rank", "write finetuning_type: lora"),
    ("finetuning_type=full adapter_name_or_path=a", "adapter_name_or_path", "write finetuning_type: lora"),
    ("oft_block_size=16", "oft_block_size", "write finetuning_type: oft"),
    ("finetuning_type=oft lora_rank=4", "lora_rank", "write finetuning_type: lora"),
    ("finetuning_type=oft oft_block_size=0", "oft_block_size", "such as 32"),
    ("finetuning_type=oft oft_rank=4 oft_block_size=16", "oft_rank", "remove one of them"),
    ("finetuning_type=oft loraplus_lr_ratio=16", "loraplus_lr_ratio", "write that"),
    (
        "finetuning_type=oft quantization_bit=4 create_new_adapter=true adapter_name_or_path=a",
        "create_new_adapter",
        "holds fixed",
    ),
    ("freeze_trainable_layers=3", "freeze_trainable_layers", "write finetuning_type: freeze"),
    ("gguf_type=q4_k_m", "gguf_type", "write that"),
    ("hub_private_repo=true", "hub_private_repo", "without export_hub_model_id"),
    ("export_hub_model_id=a/b/c", "export_hub_model_id", "wanted owner/name or name"),
    ("export_hub_model_id=you/c:d", "export_hub_model_id", "wanted owner/name or name"),
    ("export_hub_model_id=you/mine-", "export_hub_model_id", "wanted owner/name or name"),
    ("export_format=gguf export_quantization_bit=4", "export_quantization_bit", "whose number format is gguf_type"),
    ("export_quantization_method=rtn", "export_quantization_method", "without export_quantization_bit"),
    (
        "export_quantization_bit=8 export_quantization_method=fp8 export_quantization_group=9",
        *("export_quantization_group", "groups of their own"),
    ),
    ("export_quantization_dataset=f", "export_quantization_dataset", "without export_quantization_bit or export_format"),
    (
        "export_quantization_bit=4 export_quantization_method=rtn export_quantization_dataset=f",
        *("export_quantization_dataset", "which read no texts"),
    ),
    ("vllm_maxlen=9", "vllm_maxlen", "without infer_backend: vllm; write that"),
    ("infer_backend=vllm sglang_tp_size=2", "sglang_tp_size", "without infer_backend: sglang; write that"),
    ("infer_environment=e", "infer_environment", "without infer_backend: vllm or sglang; write that"),
    ("infer_backend=vllm infer_url=localhost:8001", "infer_url", "such as http://127.0.0.1:8001"),
    ("infer_backend=vllm infer_key=k", "infer_key", "without infer_url; write that"),
    ("infer_backend=vllm infer_url=http://h vllm_gpu_util=0.5", "vllm_gpu_util", "with infer_url, as hone does not start"),
    ("export_format=gguf export_adapter_only=true gguf_type=f16", "gguf_type", "export_adapter_only: true"),
    ("export_format=gguf export_size=2", "export_size", "export_format: huggingface"),
    ("export_format=gguf export_quantization_maxlen=9", "export_quantization_maxlen", "export_quantization_dataset; write"),
    ("finetuning_type=full use_dora=true", "use_dora", "write finetuning_type: lora"),
    ("finetuning_type=full loraplus_lr_ratio=16", "loraplus_lr_ratio", "write that"),
    ("stage=pt mask_history=true", "mask_history", "write stage: sft"),
    ("stage=pt train_on_prompt=true", "train_on_prompt", "write stage: sft"),
    ("mask_history=true train_on_prompt=true", "mask_history", "remove one of them"),
    ("stage=pt sft_loss=dft", "sft_loss", "write stage: sft"),
    ("stage=pt use_dft_loss=true", "use_dft_loss", "write stage: sft"),
    ("use_dft_loss=true use_eaft_loss=true", "use_eaft_loss", "contradicts use_dft_loss"),
    ("use_dft_loss=true label_smoothing_factor=0.1", "label_smoothing_factor", "sft_loss: dft; remove one"),
    ("ref_model=r", "ref_model", "without sft_loss: asft"),
    ("use_asft_loss=true ref_model_adapters=a", "ref_model_adapters", "without ref_model"),
    ("use_asft_loss=true ref_model_quantization_bit=4", "ref_model_quantization_bit", "without ref_model"),
    ("use_asft_loss=true pissa_init=true", "pissa_init", "name ref_model"),
    ("asft_alpha=0.2", "asft_alpha", "write that"),
    ("use_dft_loss=true eaft_alpha=0.2", "eaft_alpha", "without sft_loss: eaft"),
    ("stage=distill", "teacher_model", "is missing; write the folder"),
    ("teacher_model=t", "teacher_model", "write stage: distill"),
    ("stage=distill teacher_model=t distill_beta=0.1", "distill_beta", "write that"),
    ("stage=distill teacher_model=t sft_loss=dft", "sft_loss", "write stage: sft"),
    ("stage=distill teacher_model=t mask_history=true train_on_prompt=true", "mask_history", "remove one"),
    ("stage=grpo reward_funcs=json dynamic_sampling_max_draws=3", "dynamic_sampling_max_draws", "without dynamic_sampling: true"),
    (
        "stage=grpo reward_funcs=json dynamic_sampling=true filter_groups=true",
        "filter_groups",
        "draws others; write dynamic_sampling: false, or",
    ),
    ("stage=grpo reward_funcs=json use_bias_correction_kl=true", "use_bias_correction_kl", "without beta above 0"),
    ("stage=gkd", "teacher_model", "is missing; write the folder"),
    ("gkd_lambda=0.7", "gkd_lambda", "write stage: gkd"),
    ("stage=distill teacher_model=t gkd_lambda=0.9", "gkd_lambda", "with stage: distill; write stage: gkd"),
    ("stage=gkd teacher_model=t gkd_lambda=2", "gkd_lambda", "saw 2"),
    ("stage=gkd teacher_model=t distill_beta=0.1", "distill_beta", "write that"),
    ("stage=gkd teacher_model=t distill_ce_weight=0.5", "distill_ce_weight", "with stage: gkd; write stage: distill"),
    ("stage=gkd teacher_model=t mask_history=true", "mask_history", "with stage: gkd; write stage: sft or distill"),
    ("stage=gkd teacher_model=t do_sample=false", "do_sample", "never learns what to do elsewhere"),
    ("api_adapters=law", "api_adapters", "NAME=FOLDER"),
    ("api_adapters=law=a,law=b", "api_adapters", "twice"),
    ("stage=gkd teacher_model=t num_beams=2", "num_beams", "must be drawn"),
    ("stage=gkd teacher_model=t packing=true", "packing", "a stage that draws answers (grpo, ppo, gkd)"),
    ("stage=gkd teacher_model=t reward_funcs=json", "reward_funcs", "write stage: grpo"),
    ("stage=gkd teacher_model=t per_device_eval_batch_size=4 val_size=0.1", "per_device_eval_batch_size", "rollout_batch_size"),
    ("stage=gkd teacher_model=t do_eval=true", "do_eval", "write eval_dataset: NAME"),
    ("double_quantization=false", "double_quantization", "write that"),
    ("quantization_bit=8 double_quantization=false", "double_quantization", "without quantization_bit: 4"),
    ("quantization_type=fp4", "quantization_type", "write that"),
    ("quantization_bit=4 finetuning_type=full", "quantization_bit", "write finetuning_type: lora"),
    ("quantization_bit=4 resize_vocab=true", "resize_vocab", "remove quantization_bit"),
    ("quantization_bit=4 add_tokens=x", "add_tokens", "remove quantization_bit"),
    ("quantization_bit=4 pissa_init=true", "pissa_init", "remove one"),
    ("quantization_bit=4 adapter_name_or_path=a create_new_adapter=true", "create_new_adapter", "remove one"),
    ("quantization_bit=4 adapter_name_or_path=a,b", "adapter_name_or_path", "name one"),
    ("quantization_bit=4 train_from_scratch=true", "train_from_scratch", "remove"),
    ("train_from_scratch=true", "train_from_scratch", "only the adapter is saved; write finetuning_type: full"),
    ("train_from_scratch=true finetuning_type=freeze", "train_from_scratch", "stay random; write finetuning_type: full"),
    ("pissa_iter=4", "pissa_iter", "write that"),
    ("create_new_adapter=true", "create_new_adapter", "write that"),
    ("adapter_folder=x", "adapter_folder", "write that"),
    ("loraplus_lr_embedding=1e-5", "loraplus_lr_embedding", "write that"),
    ("stage=grpo", "reward_funcs", "is missing; write what makes an answer good: exact_match, numeric"),
    ("stage=grpo reward_funcs=numerc", "reward_funcs", 'saw "numerc" (did you mean "numeric"?)'),
    ("stage=grpo reward_funcs=numeric,json reward_weights=1", "reward_weights", "saw 1 weights for 2 names"),
    ("stage=grpo reward_funcs=format reward_format_pattern=[a", "reward_format_pattern", "is no regular expression"),
    ("stage=grpo reward_funcs=json reward_format_pattern=a", "reward_format_pattern", "write it into reward_funcs"),
    ("stage=grpo reward_funcs=json reward_timeout=5", "reward_timeout", "write one into reward_funcs"),
    ("stage=grpo reward_funcs=json do_sample=false", "do_sample", "the same answer each time"),
    ("stage=grpo reward_funcs=json num_beams=2", "num_beams", "must be drawn"),
    ("stage=grpo reward_funcs=json repetition_penalty=1.1", "repetition_penalty", "another distribution"),
    ("stage=grpo reward_funcs=json max_new_tokens=0", "max_new_tokens", "wanted the longest answer"),
    ("stage=grpo reward_funcs=json packing=true", "packing", "laid end to end in any case"),
    ("stage=grpo reward_funcs=json advantage_estimator=rloo scale_rewards=batch", "scale_rewards", "grpo, or remove it"),
    (
        "stage=grpo reward_funcs=json importance_sampling_correction=false importance_sampling_cap=3",
        "importance_sampling_cap",
        "write true there",
    ),
    ("stage=grpo reward_funcs=json ref_model=m", "ref_model", "without beta above 0"),
    ("stage=grpo reward_funcs=json beta=0.1 ref_model_adapters=a", "ref_model_adapters", "without ref_model"),
    ("stage=ppo", "reward_model", "is missing; write the folder of a reward model"),
    ("stage=ppo reward_model=r reward_model_type=api", "reward_model", "wanted a URL"),
    ("stage=ppo reward_model=http://h/s", "reward_model", "write reward_model_type: api beside it"),
    ("stage=ppo reward_model=r finetuning_type=full", "reward_model_type", "write reward_model_type: full or api"),
    ("stage=ppo reward_model=r pissa_init=true", "pissa_init", "write reward_model_type: full, with ref_model"),
    ("stage=ppo reward_model=r reward_model_type=full pissa_init=true", "pissa_init", "write ref_model beside it"),
    ("stage=ppo reward_model=r reward_model_adapters=a", "reward_model_adapters", "without reward_model_type: full"),
    (
        "stage=ppo reward_model=r reward_model_quantization_bit=4",
        "reward_model_quantization_bit",
        "without reward_model_type: full",
    ),
    ("stage=ppo reward_model=r reward_retries=3", "reward_retries", "without reward_model_type: api"),
    ("stage=ppo reward_model=r reward_timeout=3", "reward_timeout", "without reward_model_type: api"),
    ("stage=ppo reward_model=r ppo_kl_control=fixed ppo_target=3", "ppo_target", "write adaptive there"),
    ("stage=ppo reward_model=r ppo_kl_control=fixed ppo_kl_horizon=3", "ppo_kl_horizon", "write adaptive there"),
    ("stage=ppo reward_model=r ppo_kl_coef=0 ref_model=m", "ref_model", "with ppo_kl_coef: 0"),
    ("stage=ppo reward_model=r ppo_kl_coef=0 ppo_kl_control=fixed", "ppo_kl_control", "with ppo_kl_coef: 0"),
    ("stage=ppo reward_model=r num_beams=2", "num_beams", "stage: ppo must be drawn"),
    ("stage=ppo reward_model=r packing=true", "packing", "laid end to end in any case"),
    ("reward_model=r", "reward_model", "has no effect with stage: sft; write stage: ppo"),
    ("reward_funcs=numeric", "reward_funcs", "has no effect with stage: sft; write stage: grpo"),
    ("warmup_ratio=0.1 warmup_steps=10", "warmup_ratio", "remove one"),
    ("lr_scheduler_type=constant warmup_steps=10", "warmup_steps", "constant_with_warmup"),
    ("optim=sgd adam_beta2=0.95", "adam_beta2", "write optim: adamw_torch"),
    ("optim=lion_32bit adam_epsilon=1e-6", "adam_epsilon", "write optim: adamw_torch"),
    ("interleave_probs=0.5,0.5", "interleave_probs", "write mix_strategy"),
    ("mix_strategy=interleave_over interleave_probs=1.0", "interleave_probs", "saw 1 shares for 2 names"),
    ("mix_strategy=interleave_over interleave_probs=2,-1", "interleave_probs", "not below 0"),
    ("mix_strategy=interleave_under interleave_probs=0.5,0.4", "interleave_probs", "saw 0.5 + 0.4 = 0.9; write shares"),
    ("mix_strategy=interleave_under interleave_probs=2,1", "interleave_probs", "sum to 1"),
    ("mix_strategy=interleave_once interleave_probs=1,0", "interleave_probs", "interleave_once would not end"),
    ("logging_strategy=epoch logging_steps=5", "logging_steps", "logging_strategy: steps"),
    ("eval_delay=2", "eval_delay", "write eval_strategy"),
    ("val_size=1", "val_size", "2 rows and more"),
    ("val_size=2.5", "val_size", "whole rows"),
    ("val_size=0.1 eval_dataset=f", "val_size", "remove one"),
    ("eval_on_each_dataset=true", "eval_on_each_dataset", "write that"),
    ("eval_strategy=steps", "eval_strategy", "write eval_dataset or val_size"),
    ("do_eval=true do_train=true", "do_eval", "write eval_dataset or val_size"),
    ("do_eval=true", "do_eval", "has nothing to evaluate on; write eval_dataset: NAME, or dataset with val_size"),
    ("per_device_eval_batch_size=1", "per_device_eval_batch_size", "write eval_dataset or val_size"),
    ("gradient_checkpointing=false gradient_checkpointing_kind=full", "gradient_checkpointing_kind", "write true there"),
    ("finetuning_type=full offload_embedding=true", "offload_embedding", "write finetuning_type: lora or oft"),
    ("resize_vocab=true offload_embedding=true", "offload_embedding", "without new tokens"),
    ("fsdp=true offload_embedding=true", "offload_embedding", "write its own offload"),
    ("val_size=0.1 eval_steps=5", "eval_steps", "write that"),
    ("val_size=0.1 eval_strategy=epoch eval_steps=5", "eval_steps", "write that"),
    ("save_strategy=epoch save_steps=5", "save_steps", "write that"),
    ("save_strategy=no save_total_limit=5", "save_total_limit", "write steps or epoch"),
    ("load_best_model_at_end=true", "load_best_model_at_end", "write eval_strategy"),
    ("early_stopping_steps=2", "early_stopping_steps", "write eval_strategy"),
    ("greater_is_better=true", "greater_is_better", "remove it"),
    ("val_size=0.1 eval_strategy=epoch load_best_model_at_end=true", "load_best_model_at_end", "write save_strategy: epoch"),
    ("val_size=9 eval_strategy=steps eval_steps=3 save_steps=5 load_best_model_at_end=true", "save_steps", "a multiple"),
    ("max_steps=0", "max_steps", "saw 0"),
    ("bf16=true fp16=true", "fp16", "remove one"),
    ("overwrite_output_dir=true resume_from_checkpoint=true", "resume_from_checkpoint", "remove one"),
    ("do_sample=false top_p=0.9", "top_p", "write do_sample: true"),
    ("length_penalty=2.0", "length_penalty", "write that"),
    ("max_length=99", "max_length", "write max_new_tokens instead"),
    ("swanlab_project=p", "swanlab_project", "report_to: swanlab"),
    ("stage=classify label_kind=number class_names=a,b", "class_names", "which has no classes"),
    ("stage=classify class_names=a", "class_names", "saw a alone"),
    ("stage=classify class_names=a,b,a", "class_names", "saw a twice"),
    ("stage=classify template=qwen", "template", "has no effect with stage: classify"),
    ("stage=rerank rerank_text={query}", "rerank_text", "wanted a text with {query} and {document}"),
    ("stage=rerank class_weights=balanced", "class_weights", "write stage: classify"),
    # preference
    ("pref_beta=0.2", "pref_beta", "write stage: dpo or kto"),
    ("stage=dpo kto_chosen_weight=2", "kto_chosen_weight", "write stage: kto"),
    ("stage=kto pref_loss=ipo", "pref_loss", "write stage: dpo"),
    ("stage=kto pissa_init=true", "pissa_init", "name that in ref_model"),
    ("stage=kto overlong=split", "overlong", "whole answers"),
    ("ref_model_adapters=a", "ref_model_adapters", "without ref_model"),
    ("stage=dpo simpo_gamma=1", "simpo_gamma", "without pref_loss: simpo"),
    ("stage=dpo pref_loss=hinge dpo_label_smoothing=0.1", "dpo_label_smoothing", "pref_loss: sigmoid or robust"),
    ("stage=dpo pref_loss=orpo ref_model=m", "ref_model", "write pref_loss: sigmoid"),
    ("stage=dpo pref_loss=cpo precompute_ref=true", "precompute_ref", "has no reference"),
    ("stage=dpo pref_loss=simpo ld_alpha=0.5", "ld_alpha", "has no reference"),
    ("stage=dpo ref_model_quantization_bit=4", "ref_model_quantization_bit", "without ref_model"),
    ("stage=dpo pref_loss=robust", "pref_loss", "write that share"),
    ("stage=dpo overlong=split", "overlong", "whole answers; write truncate_left"),
    ("stage=dpo pissa_init=true", "pissa_init", "name that in ref_model"),
]
KEPT = [
    "stage=distill teacher_model=t mask_history=true distill_loss=js distill_beta=0.1 distill_top_k=8",
    "stage=gkd teacher_model=t lmbda=0.7 distill_loss=js distill_beta=0.1 distill_top_k=8 rollout_batch_size=4",
    "use_asft_loss=true asft_alpha=0.2",
    "use_asft_loss=true ref_model=r ref_model_adapters=a,b ref_model_quantization_bit=8",
    "use_eaft_loss=true eaft_alpha=2 use_dft_loss=false",
    "stage=pt label_smoothing_factor=0.1",
    "sft_loss=dft use_dft_loss=true label_smoothing_factor=0",
    "finetuning_type=full lora_rank=8",  # the default, given in so many words
    "finetuning_type=full lora_target=all double_quantization=true",
    "finetuning_type=freeze freeze_trainable_layers=3",
    "quantization_bit=4 double_quantization=false quantization_type=fp4",
    "stage=pt mask_history=false",
    "warmup_ratio=0.1 warmup_steps=0",
    "optim=paged_adamw_8bit adam_beta2=0.95",
    "optim=lion_8bit adam_beta1=0.95",
    "mix_strategy=interleave_under interleave_probs=0.3,0.7",
    "mix_strategy=interleave_under interleave_probs=0.33333333,0.66666667",
    "mix_strategy=interleave_under interleave_probs=1,0",  # the second set is never drawn, as in LLaMA-Factory
    "streaming=true val_size=0.1 max_samples=9",  # encoded on disk, so their number is known
    "logging_strategy=no tf32=true",
    "val_size=0.1 eval_strategy=epoch eval_delay=2",
    "val_size=0.1 eval_strategy=steps eval_steps=5 per_device_eval_batch_size=1 save_steps=10 load_best_model_at_end=true",
    "eval_dataset=f eval_on_each_dataset=true do_eval=true",
    "val_size=0.1 eval_strategy=epoch save_strategy=epoch early_stopping_steps=2 metric_for_best_model=eval_loss",
    "max_length=99 max_new_tokens=0",
    "num_beams=4 length_penalty=2.0 do_sample=false",
    "overwrite_output_dir=true resume_from_checkpoint=null",
    "report_to=swanlab swanlab_project=p",
    "max_steps=2 num_train_epochs=1",
    "stage=dpo pref_loss=simpo simpo_gamma=1 pref_beta=2",
    "stage=dpo pref_loss=robust dpo_label_smoothing=0.1 ref_model=m ref_model_quantization_bit=4 ld_alpha=0.5",
    "stage=dpo pissa_init=true ref_model=m",
    "stage=dpo pissa_init=true pref_loss=orpo",
]


@pytest.mark.parametrize(("settings", "key", "said"), BROKEN)
def test_a_broken_rule_names_its_key_and_the_remedy(settings: str, key: str, said: str):
    with pytest.raises(ConfigError) as caught:
        read([*BASE.split(), *settings.split()], "train")
    (mistake,) = caught.value.mistakes
    assert mistake.key == key and mistake.where == "command line" and said in mistake.message


@pytest.mark.parametrize("settings", KEPT)
def test_what_goes_together_is_accepted(settings: str):
    assert read([*BASE.split(), *settings.split()], "train").run.model.model_name_or_path == "m"


def test_a_value_that_could_not_be_read_breaks_no_rule_beside():
    with pytest.raises(ConfigError) as caught:
        read(
            [
                *BASE.split(),
                "quantization_bit=x",
                "double_quantization=false",
                "eval_dataset=f",
                "eval_strategy=sometimes",
                "eval_steps=2",
            ],
            "train",
        )
    assert [mistake.key for mistake in caught.value.mistakes] == ["quantization_bit", "eval_strategy"]


def test_what_the_command_line_sets_aside_in_the_file_is_said_and_no_mistake(tmp_path: Path):
    path = tmp_path / "run.yaml"
    path.write_text("model_name_or_path: m\noutput_dir: o\ndataset: d\nsave_steps: 5\nlora_rank: 4\n")
    notes = read([str(path), "save_strategy=no", "finetuning_type=full"], "train").notes
    assert notes == (
        "lora_rank has no effect with finetuning_type: full; write finetuning_type: lora, or remove it",
        "save_steps has no effect without save_strategy: steps; write that, or remove it",
    )
    with pytest.raises(ConfigError, match="save_steps: has no effect"):
        read([str(path), "save_strategy=no", "save_steps=6"], "train")


def test_an_evaluation_that_the_command_line_leaves_without_data_is_told_before_anything_is_read(tmp_path: Path):
    path = tmp_path / "run.yaml"
    path.write_text("model_name_or_path: m\noutput_dir: o\ndataset: d\nval_size: 0.1\ndo_eval: true\n")
    with pytest.raises(ConfigError, match="do_eval: has nothing to evaluate on; write eval_dataset"):
        read([str(path), "val_size=0"], "train")
    assert "do_eval has no effect without data" in read([str(path), "val_size=0", "do_train=true"], "train").notes[0]


def test_val_size_needs_a_training_set():
    with pytest.raises(ConfigError, match="val_size: holds back rows of dataset"):
        read(["model_name_or_path=m", "output_dir=o", "do_eval=true", "val_size=0.1"], "train")


def test_every_need_is_about_knobs_and_tells_what_to_write():
    for need in NEEDS:
        assert set(need.keys) <= set(knobs())
        assert "write" in need.why
        broken = {key for _, key, _ in BROKEN}
        assert broken & set(need.keys), f"no case breaks the rule of {need.keys}"


@pytest.mark.parametrize(
    ("written", "verb"),
    [
        ({"template": "llama3"}, "chat"),
        ({"template": "llama3", "infer_backend": "huggingface"}, "api"),
        ({"export_dir": "out", "eval_dataset": "rows", "stage": "rm"}, "export"),
        ({"api_max_tokens": 9, "stage": "rm"}, "api"),
        ({"learning_rate": 1}, "train"),
        ({"dataset": "rows", "export_dir": "out", "infer_dtype": "float16"}, "train"),
        ({"do_predict": True, "temperature": 0.5}, "train"),
    ],
)
def test_a_file_tells_the_command_that_it_is_for(written, verb):
    settings = Settings({key: Given(value, "", key, 0) for key, value in written.items()})
    assert verb_of(settings) == verb
