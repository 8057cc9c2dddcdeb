"""Unsloth, by the script of its notebooks. Needs a GPU: Unsloth cannot be imported without one.

Does not know what is watched.
"""

from __future__ import annotations

from typing import Any

from sides import rows, trl

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
OF_THE_MODEL = ("use_gradient_checkpointing", "load_in_4bit")


def words(job: dict[str, Any]) -> dict[str, Any]:
    """The job in the words of SFTConfig; whole texts are learned, as in the notebooks."""
    told = {name: value for name, value in trl.words(job).items() if name not in OF_THE_MODEL}
    return told | {"dataset_text_field": "text"}


def train(job: dict[str, Any]) -> None:
    """FastLanguageModel and TRL's trainer, which Unsloth replaces parts of."""
    import unsloth  # noqa: I001  before trl and transformers, which it changes
    import datasets
    import trl as library

    quantized = bool(job["words"].get("load_in_4bit"))
    model, tokenizer = unsloth.FastLanguageModel.from_pretrained(
        model_name=job["model"], max_seq_length=job["longest"], load_in_4bit=quantized, full_finetuning=job["method"] == "full"
    )
    if job["method"] == "lora":
        model = unsloth.FastLanguageModel.get_peft_model(
            model,
            r=job["rank"],
            lora_alpha=2 * job["rank"],
            lora_dropout=0,
            bias="none",
            target_modules=list(TARGETS),
            use_gradient_checkpointing=job["words"].get("use_gradient_checkpointing", "unsloth"),
            random_state=0,
        )
    texts = [tokenizer.apply_chat_template(row["prompt"] + row["completion"], tokenize=False) for row in rows.answered(job)]
    data = datasets.Dataset.from_list([{"text": text} for text in texts])
    settings = library.SFTConfig(**words(job))
    library.SFTTrainer(model=model, processing_class=tokenizer, args=settings, train_dataset=data).train()
