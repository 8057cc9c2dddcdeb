"""Rules: which settings need each other, exclude each other, or are missing for a command.

Does not know files; a rule sees values and answers with what to write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hone.config.knobs import KINDS, knobs
from hone.config.settings import Settings
from hone.errors import Mistake

Finding = tuple[str, str]  # key, message


@dataclass(frozen=True)
class Need:
    """`keys` do something only where `holds`. why: what to write, after "has no effect "."""

    keys: tuple[str, ...]
    holds: Callable[[Settings], bool]
    why: str


def _evaluates(settings: Settings) -> bool:
    return bool(settings["eval_dataset"]) or settings["val_size"] > 0


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
    Need(("per_device_eval_batch_size", "eval_strategy", "do_eval", "eval_on_start"), _evaluates, NO_DATA),
    Need(
        ("eval_steps",),
        lambda s: s["eval_strategy"] == "steps",
        "without eval_strategy: steps; write that, or remove it",
    ),
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
    Need(("length_penalty",), lambda s: s["num_beams"] > 1, "without num_beams above 1; write that, or remove it"),
    Need(
        ("max_length",),
        lambda s: s["max_new_tokens"] == 0,
        "while max_new_tokens is above 0; write max_new_tokens instead, or max_new_tokens: 0 beside it",
    ),
    Need(
        ("swanlab_project", "swanlab_workspace", "swanlab_run_name", "swanlab_mode", "swanlab_api_key", "swanlab_logdir"),
        lambda s: "swanlab" in s["report_to"],
        "without report_to: swanlab; write that, or remove it",
    ),
)


def broken_rules(settings: Settings, verb: str, *, file: str, unfit: set[str]) -> list[Mistake]:
    """Every rule between settings that is broken, and every key the verb misses.

    file: where a missing key is missed; unfit: keys whose values were wrong already, about which nothing more is said.
    """
    findings = [
        *_of_other_kinds(settings),
        *_without_effect(settings),
        *_of_quantization(settings),
        *_of_data(settings),
        *_of_training(settings),
        *_missing(settings, verb),
    ]
    place = file or "command line"
    return [
        Mistake(settings.where(key) or place, settings.written(key), message)
        for key, message in findings
        if key not in unfit and not (unfit and _mentions(message, unfit))
    ]


def _mentions(message: str, keys: set[str]) -> bool:
    """A rule about a key whose value could not be read would speak of its default."""
    return any(word.strip(":;,.()") in keys for word in message.split())


def notes_of(settings: Settings) -> list[str]:
    """Lines about keys that are right and yet change nothing in this run."""
    notes = []
    if settings["max_steps"] > 0 and settings.asks("num_train_epochs"):
        notes.append("num_train_epochs has nothing to do here: max_steps says how long the run is")
    if not settings["report_to"]:
        notes += [
            f"{key} has nothing to do here: no tracker follows the run (report_to)" for key in ("run_name",) if settings.asks(key)
        ]
    if "tensorboard" not in settings["report_to"] and settings.asks("logging_dir"):
        notes.append("logging_dir has nothing to do here: it is TensorBoard's folder, and report_to does not name tensorboard")
    return notes


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


def _of_quantization(settings: Settings) -> Iterator[Finding]:
    if settings["quantization_bit"] is None:
        return
    if settings["finetuning_type"] != "lora":
        message = f"weights in few bits cannot be trained with finetuning_type: {settings['finetuning_type']}"
        yield "quantization_bit", f"{message}; write finetuning_type: lora, or remove it"
    if settings["resize_vocab"]:
        yield "resize_vocab", "embeddings of a quantized model cannot grow; remove quantization_bit, or this and the added tokens"
    if settings["train_from_scratch"]:
        yield "train_from_scratch", "random weights cannot be quantized while loading; remove quantization_bit, or this"
    if settings["finetuning_type"] != "lora":
        return
    if settings["pissa_init"]:
        yield "pissa_init", "changes the base weights, which quantization_bit holds fixed; remove one of them"
    if settings["create_new_adapter"]:
        yield "create_new_adapter", "merges into the base weights, which quantization_bit holds fixed; remove one of them"
    if len(settings["adapter_name_or_path"]) > 1:
        yield (
            "adapter_name_or_path",
            "several adapters cannot be merged into a base with quantization_bit; name one, or remove that",
        )


def _of_data(settings: Settings) -> Iterator[Finding]:
    shares, names = settings["interleave_probs"], settings["dataset"]
    if shares and names and len(shares) != len(names):
        yield "interleave_probs", f"saw {len(shares)} shares for {len(names)} names in dataset; write one for each"
    if any(share < 0 for share in shares) or (shares and sum(shares) <= 0):
        yield "interleave_probs", "saw a share below 0, or none above; write positive numbers"
    if settings["val_size"] == 1:
        yield "val_size", "saw 1, which may mean one row or all of them; write a share below 1, or 2 rows and more"
    elif settings["val_size"] > 1 and not float(settings["val_size"]).is_integer():
        yield "val_size", f"saw {settings['val_size']:g}, wanted whole rows above 1 or a share below 1"
    if settings["val_size"] > 0 and settings["eval_dataset"]:
        yield "val_size", "holds back training rows although eval_dataset names other data; remove one of them"
    if settings["val_size"] > 0 and not names:
        yield "val_size", "holds back rows of dataset, which is not there; write dataset, or eval_dataset in its place"
    if settings["streaming"] and 0 < settings["val_size"] < 1:
        yield "val_size", "a share needs the number of rows, which streaming does not know; write a number of rows"
    if settings["streaming"] and settings["max_samples"] is not None:
        yield "max_samples", "does not go with streaming: true; write max_steps for a shorter run, or streaming: false"
    if settings["streaming"] and settings["do_train"] and settings["max_steps"] <= 0:
        yield "streaming", "the length of the run is not known while streaming; write max_steps"


def _of_training(settings: Settings) -> Iterator[Finding]:
    if settings["max_steps"] == 0:
        yield "max_steps", "saw 0, wanted a number of steps, or -1 to go by num_train_epochs"
    if settings["warmup_ratio"] > 0 and settings["warmup_steps"] > 0:
        yield "warmup_ratio", "has no effect beside warmup_steps; remove one of them"
    if settings["fp16"] and (settings["bf16"] or settings["pure_bf16"]):
        yield "fp16", "does not go with bf16 or pure_bf16; remove one of them"
    if settings["stage"] == "sft" and settings["mask_history"] and settings["train_on_prompt"]:
        yield "mask_history", "learns only the last answer, and train_on_prompt everything; remove one of them"
    resume = settings["resume_from_checkpoint"]
    if settings["overwrite_output_dir"] and resume not in (None, False):
        yield "resume_from_checkpoint", "continues, and overwrite_output_dir starts anew; remove one of them"
    yield from _of_evaluation(settings)


def _of_evaluation(settings: Settings) -> Iterator[Finding]:
    if not settings["load_best_model_at_end"] or settings["eval_strategy"] == "no":
        return
    if settings["save_strategy"] != settings["eval_strategy"]:
        message = f"the best model must have been saved; write save_strategy: {settings['eval_strategy']}, as eval_strategy is"
        yield "load_best_model_at_end", message
    elif settings["eval_strategy"] == "steps":
        save, evaluate = settings["save_steps"], settings["eval_steps"] or settings["logging_steps"]
        if save < evaluate or abs(save / evaluate - round(save / evaluate)) > 1e-9:
            yield "save_steps", f"must be a multiple of the steps between evaluations, {evaluate:g}, to save the best model"


def _missing(settings: Settings, verb: str) -> Iterator[Finding]:
    if not settings["model_name_or_path"]:
        yield "model_name_or_path", "is missing; write the folder or hub id of the base model"
    if verb == "export" and not settings["export_dir"]:
        yield "export_dir", "is missing; write the folder for the merged model"
    if verb not in ("train", "check"):
        return
    if not settings["output_dir"]:
        yield "output_dir", "is missing; write the folder for checkpoints and results"
    if not settings["do_train"] and not settings["do_eval"]:
        yield "do_train", "nothing to do; write do_train: true or do_eval: true"
    if settings["do_train"] and not settings["dataset"]:
        yield "dataset", "is missing; write names of dataset_info.json"
