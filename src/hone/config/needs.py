"""Needs: which settings do something only beside others, and those that therefore do nothing in a run.

Does not know files nor commands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hone.config.knobs import ADAPTED, KINDS, OWN_ANSWERS, knobs
from hone.config.settings import Settings
from hone.config.zero import stage_of

Finding = tuple[str, str]  # key, message


@dataclass(frozen=True)
class Need:
    """`keys` do something only where `holds`. why: what to write, after "has no effect "."""

    keys: tuple[str, ...]
    holds: Callable[[Settings], bool]
    why: str


def evaluates(settings: Settings) -> bool:
    """Whether there are data to evaluate on."""
    return bool(settings["eval_dataset"]) or settings["val_size"] > 0


WITHOUT_REFERENCE = ("orpo", "simpo", "cpo")
"""Words of pref_loss for which the model is held against no reference."""

_OF_VLLM = ("vllm_maxlen", "vllm_gpu_util", "vllm_enforce_eager", "vllm_max_lora_rank", "vllm_config")
_OF_SGLANG = ("sglang_maxlen", "sglang_mem_fraction", "sglang_tp_size", "sglang_config", "sglang_lora_backend")
NO_DATA = "without data to evaluate on; write eval_dataset or val_size, or remove it"
NEEDS = (
    Need(
        ("quantization_type", "double_quantization"),
        lambda s: s["quantization_bit"] == 4,
        "without quantization_bit: 4; write that, or remove it",
    ),
    Need(
        ("interleave_probs",),
        lambda s: s["mix_strategy"] != "concat",
        "with mix_strategy: concat; write mix_strategy: interleave_under, interleave_over or interleave_once, or remove it",
    ),
    Need(("eval_on_each_dataset",), lambda s: bool(s["eval_dataset"]), "without eval_dataset; write that, or remove it"),
    Need(("per_device_eval_batch_size", "eval_strategy", "eval_on_start"), evaluates, NO_DATA),
    Need(("do_eval",), lambda s: evaluates(s) or not s["do_train"], NO_DATA),  # alone it is missing its data: see rules
    Need(
        ("eval_steps",),
        lambda s: s["eval_strategy"] == "steps",
        "without eval_strategy: steps; write that, or remove it",
    ),
    Need(
        ("logging_steps",),
        lambda s: s["logging_strategy"] == "steps",
        "without logging_strategy: steps; write that, or remove it",
    ),
    Need(("eval_delay",), lambda s: s["eval_strategy"] != "no", "without evaluations; write eval_strategy: steps or epoch"),
    Need(("save_steps",), lambda s: s["save_strategy"] == "steps", "without save_strategy: steps; write that, or remove it"),
    Need(
        ("save_total_limit", "save_only_model"),
        lambda s: s["save_strategy"] != "no",
        "with save_strategy: no; write steps or epoch there, or remove it",
    ),
    Need(
        ("load_best_model_at_end", "early_stopping_steps"),
        lambda s: s["eval_strategy"] != "no",
        "without evaluations; write eval_strategy: steps or epoch, with eval_dataset or val_size",
    ),
    Need(
        ("metric_for_best_model", "greater_is_better"),
        lambda s: s["load_best_model_at_end"] or s["early_stopping_steps"] is not None,
        "without load_best_model_at_end: true or early_stopping_steps; write one of them, or remove it",
    ),
    Need(
        ("offload_embedding",),
        lambda s: s["finetuning_type"] in ADAPTED and not s["resize_vocab"],
        "where embeddings may learn; write finetuning_type: lora or oft without new tokens, or remove it",
    ),
    Need(
        ("offload_embedding",),
        lambda s: not s["fsdp"] and not stage_of(s["deepspeed"]),
        "where an engine shares weights out; write its own offload, or remove it",
    ),
    Need(
        ("gradient_checkpointing_kind",),
        lambda s: s["gradient_checkpointing"] is not False,
        "with gradient_checkpointing: false; write true there, or remove it",
    ),
    Need(("pissa_iter",), lambda s: s["pissa_init"], "without pissa_init: true; write that, or remove it"),
    Need(
        ("adapter_folder", "create_new_adapter"),
        lambda s: bool(s["adapter_name_or_path"]),
        "without adapter_name_or_path; write that, or remove it",
    ),
    Need(
        ("loraplus_lr_ratio", "loraplus_lr_embedding"),
        lambda s: s["finetuning_type"] == "lora",
        "without finetuning_type: lora; write that, or remove it",
    ),
    Need(
        ("loraplus_lr_embedding",),
        lambda s: s["loraplus_lr_ratio"] is not None,
        "without loraplus_lr_ratio; write that, or remove it",
    ),
    Need(("asft_alpha",), lambda s: s["sft_loss"] == "asft", "without sft_loss: asft (use_asft_loss: true); write that"),
    Need(("eaft_alpha",), lambda s: s["sft_loss"] == "eaft", "without sft_loss: eaft (use_eaft_loss: true); write that"),
    Need(("distill_beta",), lambda s: s["distill_loss"] == "js", "without distill_loss: js; write that, or remove it"),
    Need(
        ("class_names", "class_weights"),
        lambda s: s["label_kind"] == "class",
        "with label_kind: number, which has no classes; write label_kind: class, or remove it",
    ),
    Need(("simpo_gamma",), lambda s: s["pref_loss"] == "simpo", "without pref_loss: simpo; write that, or remove it"),
    Need(
        ("dpo_label_smoothing",),
        lambda s: s["pref_loss"] in ("sigmoid", "robust"),
        "without pref_loss: sigmoid or robust; write one of them, or remove it",
    ),
    Need(
        ("ref_model", "precompute_ref", "ld_alpha", "pref_bco_weight"),
        lambda s: s["stage"] != "dpo" or s["pref_loss"] not in WITHOUT_REFERENCE,
        "with this pref_loss, which has no reference; write pref_loss: sigmoid, or remove it",
    ),
    Need(
        ("ref_model",),
        lambda s: s["stage"] != "sft" or s["sft_loss"] == "asft",
        "with stage: sft without sft_loss: asft, which needs no reference; write that, or remove it",
    ),
    Need(
        ("ref_model", "use_bias_correction_kl"),
        lambda s: s["stage"] != "grpo" or s["beta"] > 0,
        "without beta above 0; write that, or remove it",
    ),
    Need(
        ("ref_model_adapters", "ref_model_quantization_bit"),
        lambda s: s["ref_model"] is not None,
        "without ref_model; write that, or remove it",
    ),
    Need(
        ("adam_beta1", "adam_beta2"),
        lambda s: "adam" in s["optim"] or "lion" in s["optim"],
        "with this optim; write optim: adamw_torch, or remove it",
    ),
    Need(("adam_epsilon",), lambda s: "adam" in s["optim"], "with this optim; write optim: adamw_torch, or remove it"),
    Need(
        ("warmup_ratio", "warmup_steps"),
        lambda s: s["lr_scheduler_type"] != "constant",
        "with this lr_scheduler_type; write lr_scheduler_type: constant_with_warmup, or remove it",
    ),
    Need(
        ("temperature", "top_p", "top_k"),
        lambda s: s["do_sample"],
        "with do_sample: false, which takes the likeliest token; write do_sample: true, or remove it",
    ),
    Need(
        ("per_device_eval_batch_size",),
        lambda s: s["stage"] not in OWN_ANSWERS,
        f"with a stage whose evaluation draws answers ({', '.join(OWN_ANSWERS)}); write rollout_batch_size, or remove it",
    ),
    Need(
        ("packing",),
        lambda s: s["stage"] not in OWN_ANSWERS,
        f"with a stage that draws answers ({', '.join(OWN_ANSWERS)}): they are laid end to end in any case; write another stage, "
        "or remove it",
    ),
    Need(
        ("scale_rewards",),
        lambda s: s["advantage_estimator"] != "rloo",
        "with advantage_estimator: rloo; write advantage_estimator: grpo, or remove it",
    ),
    Need(
        ("filter_groups",),
        lambda s: not s["dynamic_sampling"],
        "with dynamic_sampling: true, which leaves them out too and draws others; write dynamic_sampling: false, or remove it",
    ),
    Need(
        ("dynamic_sampling_max_draws",),
        lambda s: s["dynamic_sampling"],
        "without dynamic_sampling: true; write that, or remove it",
    ),
    Need(
        ("importance_sampling_cap",),
        lambda s: s["importance_sampling_correction"],
        "with importance_sampling_correction: false; write true there, or remove it",
    ),
    Need(
        ("ref_model", "ppo_target", "ppo_kl_horizon", "ppo_kl_control"),
        lambda s: s["stage"] != "ppo" or s["ppo_kl_coef"] > 0,
        "with ppo_kl_coef: 0; write a number above 0 there, or remove it",
    ),
    Need(
        ("ppo_target", "ppo_kl_horizon"),
        lambda s: s["ppo_kl_control"] == "adaptive",
        "with ppo_kl_control: fixed; write adaptive there, or remove it",
    ),
    Need(
        ("reward_model_adapters", "reward_model_quantization_bit"),
        lambda s: s["reward_model_type"] == "full",
        "without reward_model_type: full; write that, or remove it",
    ),
    Need(
        ("reward_retries",), lambda s: s["reward_model_type"] == "api", "without reward_model_type: api; write that, or remove it"
    ),
    Need(
        ("reward_format_pattern",),
        lambda s: "format" in s["reward_funcs"],
        "without the reward called format; write it into reward_funcs, or remove it",
    ),
    Need(
        ("reward_timeout",),
        lambda s: s["stage"] != "grpo" or any(":" in name for name in s["reward_funcs"]),
        "without a reward function of your own; write one into reward_funcs, or remove it",
    ),
    Need(
        ("reward_timeout",),
        lambda s: s["stage"] != "ppo" or s["reward_model_type"] == "api",
        "without reward_model_type: api; write that, or remove it",
    ),
    Need(
        ("ddp_find_unused_parameters", "ddp_bucket_cap_mb"),
        lambda s: not stage_of(s["deepspeed"]),
        "with ZeRO stages 1 to 3 (deepspeed); remove it, or write reduce_bucket_size in DeepSpeed's file",
    ),
    Need(
        ("ray_num_workers", "ray_init_kwargs", "placement_strategy", "resources_per_worker"),
        lambda s: s["use_ray"],
        "without use_ray: true (or the environment variable USE_RAY=1); write that, or remove it",
    ),
    Need(("length_penalty",), lambda s: s["num_beams"] > 1, "without num_beams above 1; write that, or remove it"),
    Need(
        ("max_length",),
        lambda s: s["max_new_tokens"] == 0,
        "while max_new_tokens is above 0; write max_new_tokens instead, or max_new_tokens: 0 beside it",
    ),
    Need(
        ("gguf_type", "export_adapter_only"),
        lambda s: s["export_format"] == "gguf",
        "without export_format: gguf; write that, or remove it",
    ),
    Need(
        ("export_quantization_bit",),
        lambda s: s["export_format"] != "gguf",
        "with export_format: gguf, whose number format is gguf_type; write that in its place",
    ),
    Need(
        ("export_quantization_method", "export_quantization_group"),
        lambda s: s["export_quantization_bit"] is not None,
        "without export_quantization_bit; write that, or remove it",
    ),
    Need(
        ("export_quantization_group",),
        lambda s: s["export_quantization_method"] not in ("fp8", "bnb"),
        "with export_quantization_method: fp8 or bnb, which have groups of their own; write another method, or remove it",
    ),
    Need(
        ("export_quantization_dataset",),
        lambda s: s["export_format"] == "gguf" or s["export_quantization_bit"] is not None,
        "without export_quantization_bit or export_format: gguf; write one of them, or remove it",
    ),
    Need(
        ("export_quantization_dataset",),
        lambda s: s["export_format"] == "gguf" or s["export_quantization_method"] in ("gptq", "awq"),
        "with export_quantization_method: rtn, fp8, bnb or mlx, which read no texts; write gptq or awq, or remove it",
    ),
    Need(
        ("gguf_type", "export_quantization_dataset"),
        lambda s: not s["export_adapter_only"],
        "with export_adapter_only: true, which writes f32; write false there, or remove it",
    ),
    Need(("hub_private_repo",), lambda s: s["export_hub_model_id"], "without export_hub_model_id; write that, or remove it"),
    Need(
        ("export_size",),
        lambda s: s["export_format"] != "gguf",
        "with export_format: gguf, which is one file; write export_format: huggingface, or remove it",
    ),
    Need(
        ("export_quantization_nsamples", "export_quantization_maxlen"),
        lambda s: s["export_quantization_dataset"] is not None,
        "without export_quantization_dataset; write that, or remove it",
    ),
    Need(
        _OF_VLLM,
        lambda s: s["infer_backend"] == "vllm",
        "without infer_backend: vllm; write that, or remove it",
    ),
    Need(
        _OF_SGLANG,
        lambda s: s["infer_backend"] == "sglang",
        "without infer_backend: sglang; write that, or remove it",
    ),
    Need(
        ("infer_environment", "infer_url"),
        lambda s: s["infer_backend"] in ("vllm", "sglang"),
        "without infer_backend: vllm or sglang; write that, or remove it",
    ),
    Need(("infer_key",), lambda s: s["infer_url"] is not None, "without infer_url; write that, or remove it"),
    Need(
        ("infer_environment", *_OF_VLLM, *_OF_SGLANG),
        lambda s: s["infer_url"] is None,
        "with infer_url, as hone does not start that server; write it where the server is started, or remove infer_url",
    ),
    Need(
        ("swanlab_project", "swanlab_workspace", "swanlab_run_name", "swanlab_mode", "swanlab_api_key", "swanlab_logdir"),
        lambda s: "swanlab" in s["report_to"],
        "without report_to: swanlab; write that, or remove it",
    ),
)


def idle(settings: Settings) -> list[Finding]:
    """Every key that was written and has no effect, once, with what to write."""
    found: dict[str, str] = {}
    for key, message in (*_of_other_kinds(settings), *_without_effect(settings)):
        found.setdefault(key, message)
    return list(found.items())


def set_aside(settings: Settings, alone: Settings) -> set[str]:
    """Keys of the file that only the command line leaves without effect: save_steps, under save_strategy=no."""
    before = {key for key, _ in idle(alone)}
    return {key for key, _ in idle(settings) if settings.given[key].rank == 0 and key not in before}


def _of_other_kinds(settings: Settings) -> Iterator[Finding]:
    """Keys of another kind of the same section: lora_rank with finetuning_type: full."""
    for key in settings.given:
        knob = knobs()[key]
        if knob.kinds and settings.asks(key) and settings.kind(knob.section) not in knob.kinds:
            flat, _, words, _ = KINDS[knob.section]
            own = " or ".join(word for word, kind in words.items() if kind in knob.kinds)
            yield key, f"has no effect with {flat}: {settings[flat]}; write {flat}: {own}, or remove it"


def _without_effect(settings: Settings) -> Iterator[Finding]:
    for need in NEEDS:
        if not need.holds(settings):
            yield from ((key, f"has no effect {need.why}") for key in need.keys if settings.asks(key))
