"""Settings of the optimizer and its learning-rate schedule.

Does not know what is trained.
"""

from __future__ import annotations

from typing import Any

from hone.config.section import Section, knob


class OptimizerConfig(Section):
    """How weights follow gradients."""

    kind: str = knob("adamw_torch", "Optimizer, by its Hugging Face name.", flat="optim")
    learning_rate: float = knob(5e-5, "Peak learning rate.", gt=0)
    weight_decay: float = knob(0.0, "Decay of weights a step, relative to the learning rate.", ge=0)
    adam_beta1: float = knob(0.9, "Adam's first decay.", ge=0, lt=1)
    adam_beta2: float = knob(0.999, "Adam's second decay.", ge=0, lt=1)
    adam_epsilon: float = knob(1e-8, "Adam's epsilon.", ge=0)
    lr_scheduler_type: str = knob("linear", "Schedule, by its Hugging Face name.")
    lr_scheduler_kwargs: dict[str, Any] = knob({}, "Numbers of the schedule.")
    warmup_ratio: float = knob(0.0, "Share of the steps in which the learning rate rises.", ge=0, le=1)
    warmup_steps: float = knob(0, "Steps in which the learning rate rises (a share of all steps where below 1); wins over warmup_ratio.", ge=0)
    loraplus_lr_ratio: float | None = knob(None, "Learning rate of LoRA's B matrices relative to A (Hayou et al. 2024).")
    loraplus_lr_embedding: float = knob(1e-6, "Learning rate of LoRA embeddings under LoRA+.")
