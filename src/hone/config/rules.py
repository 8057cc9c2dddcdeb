"""Rules: which settings exclude each other or are missing for a command; those without effect are found in `needs`.

Does not know files; a rule sees values and answers with what to write.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from hone.config.context_rules import of_context
from hone.config.knobs import ADAPTED, SCORES_TEXTS, knobs
from hone.config.needs import WITHOUT_REFERENCE, Finding, evaluates, idle, set_aside
from hone.config.own_answers import of_drawing, of_reward_model, of_rewards
from hone.config.settings import Settings
from hone.config.sharding_rules import of_sharding
from hone.config.zero_fields import notes_of_deepspeed, of_deepspeed
from hone.errors import Mistake

SUM_TOLERANCE = 1e-6
"""How far shares may sum from 1. LLaMA-Factory hands them to `datasets`, which refuses other sums (5.2: beyond 1.5e-8) too."""

HUB_ID = re.compile(r"(?!.*(--|\.\.))(\w([\w.-]*\w)?/)?\w([\w.-]*\w)?", re.ASCII)
"""What Hugging Face's hub takes for the name of a repository."""


def broken_rules(settings: Settings, verb: str, *, alone: Settings, file: str, unfit: set[str]) -> list[Mistake]:
    """Every rule between settings that is broken, and every key the verb misses.

    alone: the file's settings without the command line's; file: where a missing key is missed; unfit: keys whose values
    were wrong already, about which nothing more is said.
    """
    aside = set_aside(settings, alone)
    findings = [
        *(finding for finding in idle(settings) if finding[0] not in aside),
        *_of_quantization(settings),
        *_of_rotation(settings),
        *_of_data(settings),
        *_of_pictures(settings),
        *_of_training(settings),
        *of_rewards(settings),
        *of_reward_model(settings),
        *of_drawing(settings),
        *_of_preference(settings),
        *of_deepspeed(settings),
        *of_sharding(settings),
        *of_context(settings),
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


def notes_of(settings: Settings, alone: Settings) -> list[str]:
    """Lines about keys that are right and yet change nothing in this run; `alone` as for broken_rules."""
    aside = set_aside(settings, alone)
    notes = [f"{key} {message}" for key, message in dict(idle(settings)).items() if key in aside]
    notes += notes_of_deepspeed(settings)
    if settings["max_steps"] > 0 and settings.asks("num_train_epochs"):
        notes.append("num_train_epochs has nothing to do here: max_steps says how long the run is")
    if not settings["report_to"]:
        notes += [
            f"{key} has nothing to do here: no tracker follows the run (report_to)" for key in ("run_name",) if settings.asks(key)
        ]
    if not {"tensorboard", "mlflow"} & set(settings["report_to"]) and settings.asks("logging_dir"):
        message = "it is the folder of TensorBoard and MLflow, and report_to names neither tensorboard nor mlflow"
        notes.append(f"logging_dir has nothing to do here: {message}")
    if len(settings["report_to"]) > 1 and settings.asks("swanlab_project"):
        notes.append("swanlab_project names the project in every tracker of this run, as they share one name")
    return notes


def _of_quantization(settings: Settings) -> Iterator[Finding]:
    if settings["quantization_bit"] is None:
        return
    if settings["finetuning_type"] not in ADAPTED:
        message = f"weights in few bits cannot be trained with finetuning_type: {settings['finetuning_type']}"
        yield "quantization_bit", f"{message}; write finetuning_type: lora or oft, or remove it"
    if settings["resize_vocab"]:
        yield "resize_vocab", "embeddings of a quantized model cannot grow; remove quantization_bit, or this and the added tokens"
    if settings["train_from_scratch"]:
        yield "train_from_scratch", "random weights cannot be quantized while loading; remove quantization_bit, or this"
    if settings["quantization_method"] == "fp8" and settings["quantization_bit"] != 8:
        yield "quantization_method", "fp8 has 8 bits; write quantization_bit: 8, or quantization_method: bnb"
    if settings["quantization_method"] == "fp8" and settings["use_dora"]:
        yield "use_dora", "needs the lengths of the base's weights, which peft cannot read from fp8; remove one of them"
    if settings["finetuning_type"] not in ADAPTED:
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
    if shares and (min(shares) < 0 or abs(sum(shares) - 1) > SUM_TOLERANCE):
        seen = " + ".join(f"{share:g}" for share in shares)
        yield "interleave_probs", f"saw {seen} = {sum(shares):.6g}; write shares that are not below 0 and sum to 1"
    elif shares and min(shares) == 0 and settings["mix_strategy"] in ("interleave_over", "interleave_once"):
        message = f"a set with share 0 is never used up, and mix_strategy: {settings['mix_strategy']} would not end"
        yield "interleave_probs", f"{message}; write a share above 0, or leave that set out of dataset"
    if settings["val_size"] == 1:
        yield "val_size", "saw 1, which may mean one row or all of them; write a share below 1, or 2 rows and more"
    elif settings["val_size"] > 1 and not float(settings["val_size"]).is_integer():
        yield "val_size", f"saw {settings['val_size']:g}, wanted whole rows above 1 or a share below 1"
    if settings["val_size"] > 0 and settings["eval_dataset"]:
        yield "val_size", "holds back training rows although eval_dataset names other data; remove one of them"
    if settings["val_size"] > 0 and not names:
        yield "val_size", "holds back rows of dataset, which is not there; write dataset, or eval_dataset in its place"


def _of_pictures(settings: Settings) -> Iterator[Finding]:
    most, fewest = settings["image_max_pixels"], settings["image_min_pixels"]
    if most < fewest:
        yield "image_max_pixels", f"saw {most:,}, and image_min_pixels is {fewest:,}; write the larger one here"


def _of_rotation(settings: Settings) -> Iterator[Finding]:
    rank, size = settings["oft_rank"], settings["oft_block_size"]
    if settings["finetuning_type"] != "oft":
        return
    if not rank and not size:
        yield "oft_block_size", "saw 0, and oft_rank is 0 too; write how many inputs are turned together, such as 32"
    if rank and size and "oft_block_size" in settings.given:
        yield "oft_rank", "cuts inputs into so many blocks, and oft_block_size into blocks of that size; remove one of them"


def _of_training(settings: Settings) -> Iterator[Finding]:
    if settings["max_steps"] == 0:
        yield "max_steps", "saw 0, wanted a number of steps, or -1 to go by num_train_epochs"
    if settings["warmup_ratio"] > 0 and settings["warmup_steps"] > 0:
        yield "warmup_ratio", "has no effect beside warmup_steps; remove one of them"
    if settings["train_from_scratch"] and settings["finetuning_type"] != "full" and not settings["quantization_bit"]:
        message = "random weights have nothing to add to, and would be lost: only the adapter is saved"
        if settings["finetuning_type"] == "freeze":
            message = "random weights that are frozen stay random"
        yield "train_from_scratch", f"{message}; write finetuning_type: full, or remove this"
    if settings["per_device_train_batch_size"] == "auto" and not settings.asks("gradient_accumulation_steps"):
        message = "is chosen so that it divides gradient_accumulation_steps, the sequences of a step, which is not said"
        yield "per_device_train_batch_size", f"{message}; write it, such as gradient_accumulation_steps: 16"
    if settings["fp16"] and (settings["bf16"] or settings["pure_bf16"]):
        yield "fp16", "does not go with bf16 or pure_bf16; remove one of them"
    if settings["stage"] in ("sft", "distill") and settings["mask_history"] and settings["train_on_prompt"]:
        yield "mask_history", "learns only the last answer, and train_on_prompt everything; remove one of them"
    if settings["sft_loss"] == "asft" and settings["pissa_init"] and not settings["ref_model"]:
        yield "pissa_init", "changes the base, which sft_loss: asft holds the model against; remove it, or name ref_model"
    if settings["label_smoothing_factor"] and settings["sft_loss"] != "cross_entropy":
        yield "label_smoothing_factor", f"is of another loss than sft_loss: {settings['sft_loss']}; remove one of them"
    if settings["stage"] in ("embed", *SCORES_TEXTS):
        yield from _of_plain_texts(settings)
    resume, output = settings["resume_from_checkpoint"], settings["output_dir"]
    if settings["staging_dir"] and "://" not in output:
        yield "staging_dir", "is where a run works whose output_dir is a URL, and output_dir is a folder; remove it"
    if isinstance(resume, str) and "://" in resume and resume.rstrip("/").rpartition("/")[0] != output.rstrip("/"):
        yield "resume_from_checkpoint", "as a URL is a checkpoint-N of output_dir; write that URL as output_dir, or fetch it"
    if settings["overwrite_output_dir"] and resume not in (None, False):
        yield "resume_from_checkpoint", "continues, and overwrite_output_dir starts anew; remove one of them"
    yield from _of_evaluation(settings)


def _of_preference(settings: Settings) -> Iterator[Finding]:
    stage = settings["stage"]
    if stage not in ("dpo", "kto"):
        return
    if settings["overlong"] == "split":
        message = f"cuts a conversation into parts, and stage: {stage} compares whole answers"
        yield "overlong", f"{message}; write truncate_left, truncate_right or drop, or remove it"
    refers = stage == "kto" or settings["pref_loss"] not in WITHOUT_REFERENCE
    if refers and settings["finetuning_type"] == "lora" and settings["pissa_init"] and not settings["ref_model"]:
        message = "changes the base weights, so that the base with its adapter off is not the model that it was"
        yield "pissa_init", f"{message}; name that in ref_model, or remove this"
    if stage == "dpo" and settings["pref_loss"] == "robust" and not settings["dpo_label_smoothing"]:
        message = "corrects for a share of wrong labels, and dpo_label_smoothing says that there are none"
        yield "pref_loss", f"robust {message}; write that share, or pref_loss: sigmoid"


def _of_plain_texts(settings: Settings) -> Iterator[Finding]:
    stage, pattern, names = settings["stage"], settings["rerank_text"], settings["class_names"]
    if settings["template"]:
        yield "template", f"has no effect with stage: {stage}, which encodes texts as the tokenizer does by itself; remove it"
    if stage == "embed":
        yield from _of_vectors(settings)
    if stage == "rerank" and not ("{query}" in pattern and "{document}" in pattern):
        yield "rerank_text", f"saw {pattern!r}, wanted a text with {{query}} and {{document}} in it"
    if stage == "classify" and len(names) == 1:
        yield "class_names", f"saw {names[0]} alone, wanted two classes or more with commas between them"
    if stage == "classify" and (twice := next((name for name in names if names.count(name) > 1), None)):
        yield "class_names", f"saw {twice} twice, wanted each class once"


def _of_vectors(settings: Settings) -> Iterator[Finding]:
    widths, weights = settings["matryoshka_dims"], settings["matryoshka_weights"]
    if any(width < 1 for width in widths):
        yield "matryoshka_dims", f"saw {min(widths)}, wanted widths of 1 or more"
    if weights and len(weights) != len(widths):
        yield "matryoshka_weights", f"saw {len(weights)} for {len(widths)} widths in matryoshka_dims; write one for each"


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


def _of_predictions(settings: Settings) -> Iterator[Finding]:
    if not settings["do_predict"]:
        return
    if settings["stage"] != "sft":
        yield "do_predict", f"answers rows of stage: sft and not of {settings['stage']}; predict with a file of that stage"
    if settings["train_on_prompt"]:
        yield "do_predict", "has no prompts where train_on_prompt makes all of a row its answer; remove that"
    if not evaluates(settings):
        yield "do_predict", "has nothing to answer; write eval_dataset: NAME, or dataset with val_size"


def _of_few_bits(settings: Settings, verb: str) -> Iterator[Finding]:
    bits, method = settings["export_quantization_bit"], settings["export_quantization_method"]
    if verb != "export" or bits is None or settings["export_format"] == "gguf":
        return
    if method in ("gptq", "awq") and not settings["export_quantization_dataset"]:
        message = f"is missing; {method} needs texts of the kind the model will read (method rtn needs none)"
        yield "export_quantization_dataset", message
    if method in ("fp8", "bnb", "awq") and bits != (wanted := 8 if method == "fp8" else 4):
        yield "export_quantization_bit", f"{method} has {wanted} bits; write {wanted}, or another export_quantization_method"
    if method == "mlx" and settings["export_quantization_group"] not in (None, 32, 64, 128):
        yield "export_quantization_group", "is 32, 64 or 128 with export_quantization_method: mlx"


def verb_of(settings: Settings) -> str:
    """The command that a file is for, as what it names tells: data and a folder for results, an export, an engine or server."""
    sections = {knobs()[key].section for key in settings.given}
    if any(settings.asks(key) for key in ("dataset", "output_dir", "do_train", "do_eval", "do_predict")):
        return "train"
    if "export" in sections:
        return "export"
    if {"api", "serve"} & sections:
        return "api"
    return "train" if {"train", "optimizer", "objective", "parallel", "track"} & sections else "chat"


def _missing(settings: Settings, verb: str) -> Iterator[Finding]:
    if not settings["model_name_or_path"]:
        yield "model_name_or_path", "is missing; write the folder or hub id of the base model"
    if verb == "export" and not settings["export_dir"]:
        yield "export_dir", "is missing; write the folder for the merged model"
    place = settings["export_hub_model_id"]
    if place and not HUB_ID.fullmatch(place):
        yield "export_hub_model_id", f'saw "{place}", wanted owner/name or name: letters, digits, _, and single - and . within'
    if verb == "export" and settings["gguf_type"].startswith("iq") and not settings["export_quantization_dataset"]:
        yield (
            "export_quantization_dataset",
            f"is missing; gguf_type: {settings['gguf_type']} needs texts of the kind it will read",
        )
    yield from _of_few_bits(settings, verb)
    if verb == "export" and settings["export_adapter_only"] and not settings["adapter_name_or_path"]:
        yield "adapter_name_or_path", "is missing; export_adapter_only: true writes the adapter that it names"
    pairs = [pair.partition("=") for pair in settings["api_adapters"]]
    if wrong := next((name + sign + place for name, sign, place in pairs if not name.strip() or not place.strip()), None):
        yield "api_adapters", f"{wrong!r} names no adapter; write NAME=FOLDER, as law=saves/law"
    elif len({name for name, *_ in pairs}) < len(pairs):
        yield "api_adapters", "names one name twice; each adapter needs one of its own"
    if settings["infer_url"] and not settings["infer_url"].startswith(("http://", "https://")):
        yield "infer_url", f'saw "{settings["infer_url"]}", wanted a URL such as http://127.0.0.1:8001'
    if verb in ("api", "webchat") and settings["num_beams"] > 1:
        yield "num_beams", f"has no place in hone {verb}, which tells each token as it is drawn; write num_beams: 1"
    if verb != "train":
        return
    if not settings["output_dir"]:
        yield "output_dir", "is missing; write the folder for checkpoints and results"
    if not any(settings[key] for key in ("do_train", "do_eval", "do_predict")):
        yield "do_train", "nothing to do; write do_train: true, do_eval: true or do_predict: true"
    yield from _of_predictions(settings)
    if settings["do_eval"] and not settings["do_train"] and not evaluates(settings):
        yield "do_eval", "has nothing to evaluate on; write eval_dataset: NAME, or dataset with val_size, or do_train: true"
    if settings["stage"] in ("distill", "gkd") and not settings["teacher_model"]:
        yield "teacher_model", "is missing; write the folder or hub id of the model to learn from"
    if settings["do_train"] and not settings["dataset"]:
        yield "dataset", "is missing; write names of dataset_info.json"
