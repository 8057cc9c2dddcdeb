"""Settings of the optimizer and its learning-rate schedule.

Does not know what is trained.
"""

from __future__ import annotations

from typing import Any, Literal

from hone.config.section import Section, knob

OptimizerKind = Literal[
    "adamw_torch", "adamw_torch_fused", "adamw_bf16", "adamw_8bit", "adamw_bnb_8bit", "paged_adamw", "paged_adamw_32bit",
    "paged_adamw_8bit", "lion_32bit", "lion_8bit", "paged_lion_32bit", "paged_lion_8bit",
    "adafactor", "sgd", "adagrad", "rmsprop",
]  # fmt: skip
ScheduleKind = Literal[
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt",
    "cosine_with_min_lr", "cosine_warmup_with_min_lr", "warmup_stable_decay",
]  # fmt: skip


class OptimizerConfig(Section):
    """How weights follow gradients."""

    kind: OptimizerKind = knob(
        "adamw_torch",
        "Optimizer, by its Hugging Face name. adamw_torch and adamw_torch_fused are one, fused but for fp16 and devices "
        "where torch cannot. adamw_bf16 holds its states in bfloat16, half as large, and rounds them, and weights under "
        "pure_bf16, up or down at random, so that small updates are not lost. The 8bit and paged ones need bitsandbytes and take "
        "less memory; adafactor takes the least, and learns slower.",
        flat="optim",
    )
    learning_rate: float = knob(
        5e-5,
        "Highest learning rate. About 1e-4 suits LoRA, 1e-5 full training of a large model. Lower it where the loss "
        "jumps, raise it where it hardly falls.",
        gt=0,
        example="1e-4",
    )
    weight_decay: float = knob(
        0.0,
        "Pull of the weights towards zero in every step, times the learning rate. 0.01 to 0.1 against over-fitting in"
        " full training.",
        ge=0,
        example="0.1",
    )
    adam_beta1: float = knob(0.9, "How slowly Adam's mean of gradients changes. Seldom changed.", ge=0, lt=1, level="advanced")
    adam_beta2: float = knob(
        0.999,
        "How slowly Adam's mean of squared gradients changes. 0.95 is usual in pretraining.",
        ge=0,
        lt=1,
        level="advanced",
        example="0.95",
    )
    adam_epsilon: float = knob(
        1e-8, "Small number that keeps Adam from dividing by zero. Seldom changed.", ge=0, level="advanced", example="1e-6"
    )
    lr_scheduler_type: ScheduleKind = knob(
        "linear",
        "How the learning rate changes after the warm-up, by its Hugging Face name. cosine is the usual choice.",
        example="cosine",
    )
    lr_scheduler_kwargs: dict[str, Any] = knob(
        {},
        "Numbers of the schedule, as a mapping, such as the lowest rate of cosine_with_min_lr.",
        level="advanced",
        example="{min_lr: 1e-6}",
    )
    warmup_ratio: float = knob(
        0.0,
        "Share of all steps in which the learning rate rises from 0. 0.03 to 0.1 steadies the start; give either this"
        " or warmup_steps.",
        ge=0,
        le=1,
        example="0.1",
    )
    warmup_steps: float = knob(
        0.0,         "Steps in which the learning rate rises from 0 (a share of all steps where below 1). Give either this or "
        "warmup_ratio.", unit="steps", ge=0,
        example="20",
    )  # fmt: skip
    loraplus_lr_ratio: float | None = knob(
        None,
        "Learning rate of LoRA's B matrices relative to the A matrices (LoRA+, Hayou et al. 2024). 16 is a good first"
        " value; left out, both are the same.",
        gt=0,
        level="advanced",
        example="16.0",
    )
    loraplus_lr_embedding: float = knob(1e-6, "Learning rate of LoRA on embeddings under LoRA+.", gt=0, level="advanced")
