"""LLaMA-Factory, by its own command line.

Does not know what is watched.
"""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def words(job: dict[str, Any]) -> dict[str, Any]:
    """The job as a flat YAML's keys, which hone reads too; the setting's own words come last."""
    told = {
        "model_name_or_path": job["model"], "stage": job["stage"], "do_train": True, "finetuning_type": job["method"],
        "dataset": job["dataset"], "dataset_dir": job["data"], "cutoff_len": job["longest"], "output_dir": "out",
        "per_device_train_batch_size": job["batch"], "gradient_accumulation_steps": 1, "max_steps": job["steps"],
        "learning_rate": job["learning_rate"], "lr_scheduler_type": "constant", "seed": 0, "disable_shuffling": True,
        "save_strategy": "no", "report_to": "none", "logging_steps": 1, "use_cpu": job["cpu"],
    }  # fmt: skip
    if job["method"] == "lora":
        told |= {"lora_rank": job["rank"], "lora_alpha": 2 * job["rank"], "lora_target": "all", "lora_dropout": 0.0}
    if job["stage"] == "dpo":
        told["pref_beta"] = 0.1
    told |= job["words"]
    if told.get("packing"):  # as many tokens an optimizer step as the rows of a batch have
        told |= {"per_device_train_batch_size": 1, "cutoff_len": job["tokens_per_step"]}
    return told


def train(job: dict[str, Any]) -> None:
    """`llamafactory-cli train run.yaml`."""
    command("llamafactory.cli", words(job))


def command(module: str, told: dict[str, Any]) -> None:
    """MODULE's command line, told to train by a YAML; JSON is YAML."""
    Path("run.yaml").write_text(json.dumps(told))
    sys.argv = [module, "train", "run.yaml"]
    try:
        runpy.run_module(module, run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise


def ready(job: dict[str, Any]) -> Callable[[], int]:
    """Everything imported and the tokenizer loaded; what is left is to prepare the data, as its training does."""
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer

    model, data, training, _, _ = get_train_args(words(job))
    loaded = load_tokenizer(model)
    template = get_template_and_fix_tokenizer(loaded["tokenizer"], data)

    def prepare() -> int:
        return len(get_dataset(template, model, data, training, stage="sft", **loaded)["train_dataset"])

    return prepare
