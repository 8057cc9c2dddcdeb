"""transformers' own Trainer, by the script that a user of it writes: rows encoded, labels of the answer alone.

Does not know what is watched.
"""

from __future__ import annotations

from typing import Any

from sides import rows
from sides.trl import ADAPTED

OF_THE_SCRIPT = ("padding_free", "dtype", "quantization_bit")
"""A setting's words that are no arguments of the trainer."""


def words(job: dict[str, Any]) -> dict[str, Any]:
    """The job in the words of TrainingArguments; the setting's own come last."""
    told = {
        "output_dir": "out", "per_device_train_batch_size": job["batch"], "gradient_accumulation_steps": 1,
        "max_steps": job["steps"], "learning_rate": job["learning_rate"], "lr_scheduler_type": "constant", "seed": 0,
        "save_strategy": "no", "report_to": "none", "logging_steps": 1, "use_cpu": job["cpu"],
        "train_sampling_strategy": "sequential",
    }  # fmt: skip
    own = {name: value for name, value in job["words"].items() if name not in OF_THE_SCRIPT}
    if own.get("gradient_accumulation_steps") == "batch":  # rows one by one, as many a step as everybody's
        own["gradient_accumulation_steps"] = job["batch"]
    return told | own


def encode(tokenizer: Any, row: dict[str, rows.Messages], longest: int) -> dict[str, list[int]]:
    """Ids and labels of a row, those of the question ignored."""
    asked = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=True)["input_ids"]
    whole = tokenizer.apply_chat_template(row["prompt"] + row["completion"], return_dict=True)["input_ids"][:longest]
    return {"input_ids": whole, "labels": [-100] * len(asked) + whole[len(asked) :]}


def train(job: dict[str, Any]) -> None:
    """Trainer, padded; with `padding_free` by transformers' collator that lays rows end to end."""
    import datasets
    import peft
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(job["model"])
    data = datasets.Dataset.from_list(rows.answered(job)).map(
        lambda row: encode(tokenizer, row, job["longest"]), remove_columns=["prompt", "completion"]
    )
    dtype, quantized = job["words"].get("dtype", "float32"), {}
    if job["words"].get("quantization_bit"):
        nf4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
        quantized["quantization_config"] = transformers.BitsAndBytesConfig(**nf4, bnb_4bit_compute_dtype=dtype)
    where = {} if job["cpu"] else {"device_map": {"": 0}}
    model = transformers.AutoModelForCausalLM.from_pretrained(job["model"], dtype=dtype, **quantized, **where)
    if quantized:
        recompute = bool(job["words"].get("gradient_checkpointing"))
        model = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=recompute)
    elif job["words"].get("gradient_checkpointing") and job["method"] == "lora":
        model.enable_input_require_grads()
    if job["method"] == "lora":
        model = peft.get_peft_model(model, peft.LoraConfig(r=job["rank"], lora_alpha=2 * job["rank"], **ADAPTED))
    if job["words"].get("padding_free"):
        model.config.use_cache = False
        collator = transformers.DataCollatorWithFlattening()
    else:
        collator = transformers.DataCollatorForSeq2Seq(tokenizer)
    settings = transformers.TrainingArguments(**words(job))
    transformers.Trainer(model=model, args=settings, train_dataset=data, data_collator=collator).train()
