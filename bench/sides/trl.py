"""TRL's SFTTrainer and DPOTrainer, by a script as its documentation writes them.

Does not know what is watched.
"""

from __future__ import annotations

from typing import Any

from sides import rows

ADAPTED = {"task_type": "CAUSAL_LM", "target_modules": "all-linear", "lora_dropout": 0.0}


def words(job: dict[str, Any]) -> dict[str, Any]:
    """The job in the words of SFTConfig and DPOConfig; the setting's own come last."""
    told = {
        "output_dir": "out", "per_device_train_batch_size": job["batch"], "gradient_accumulation_steps": 1,
        "max_steps": job["steps"], "learning_rate": job["learning_rate"], "lr_scheduler_type": "constant", "seed": 0,
        "save_strategy": "no", "report_to": "none", "logging_steps": 1, "use_cpu": job["cpu"], "max_length": job["longest"],
        "train_sampling_strategy": "sequential",
    }  # fmt: skip
    return told | ({"beta": 0.1} if job["stage"] == "dpo" else {}) | job["words"]


def train(job: dict[str, Any]) -> None:
    """The trainer of the stage."""
    import datasets
    import peft
    import trl

    adapter = peft.LoraConfig(r=job["rank"], lora_alpha=2 * job["rank"], **ADAPTED) if job["method"] == "lora" else None
    settings = words(job)
    if job["stage"] == "dpo":
        build, config, found = trl.DPOTrainer, trl.DPOConfig(**settings), rows.pairs(job)
    else:
        build, config, found = trl.SFTTrainer, trl.SFTConfig(**settings), rows.answered(job)
    build(model=job["model"], args=config, train_dataset=datasets.Dataset.from_list(found), peft_config=adapter).train()
