"""Settings of the training run: its length, batches, precision, logging, evaluation and checkpoints.

Does not know the objective.
"""

from __future__ import annotations

from typing import Literal

from hone.config.section import Section, knob

Strategy = Literal["no", "steps", "epoch"]


class TrainConfig(Section):
    """How the run goes."""

    output_dir: str = knob("", "Folder of everything the run writes.")
    do_train: bool = knob(False, "Train.")
    do_eval: bool = knob(False, "Evaluate at the end.")
    overwrite_output_dir: bool = knob(False, "Start anew although output_dir holds checkpoints; they are removed when the first new one is complete.")
    resume_from_checkpoint: str | bool | None = knob(None, "Checkpoint to continue; true for the newest complete one.")
    num_train_epochs: float = knob(3.0, "Passes over the data.", unit="epochs", gt=0)
    max_steps: int = knob(-1, "Optimizer steps; overrules num_train_epochs where positive.", unit="steps")
    per_device_train_batch_size: int = knob(8, "Sequences a device takes at once.", gt=0)
    per_device_eval_batch_size: int = knob(8, "Sequences a device evaluates at once.", gt=0)
    gradient_accumulation_steps: int = knob(1, "Batches that make one optimizer step.", gt=0)
    max_grad_norm: float = knob(1.0, "Gradients are scaled down to this norm; 0 leaves them.", ge=0)
    bf16: bool = knob(False, "Compute in bfloat16, keep trained weights in float32.")
    fp16: bool = knob(False, "Compute in float16 with loss scaling.")
    pure_bf16: bool = knob(False, "Keep trained weights in bfloat16 too.")
    use_cpu: bool = knob(False, "Train on the CPU although there is an accelerator.")
    gradient_checkpointing: bool = knob(True, "Recompute activations in the backward pass to save memory.")
    neftune_noise_alpha: float | None = knob(None, "Noise on the embeddings (Jain et al. 2023).")
    seed: int = knob(42, "Seed of everything random.", ge=0)
    data_seed: int | None = knob(None, "Seed of the order of samples; `seed` where left out.", ge=0)
    disable_shuffling: bool = knob(False, "Take samples in the order of the files.")
    full_determinism: bool = knob(False, "Use only deterministic algorithms; slower.")
    dataloader_drop_last: bool = knob(False, "Leave out the last, smaller batch of an epoch.")
    logging_steps: float = knob(500, "Steps between log lines (a share of all steps where below 1).", unit="steps", gt=0)
    logging_first_step: bool = knob(False, "Log the first step too.")
    eval_strategy: Strategy = knob("no", "When to evaluate.")
    eval_steps: float | None = knob(None, "Steps between evaluations; logging_steps where left out.", unit="steps", gt=0)
    eval_on_start: bool = knob(False, "Evaluate before the first step.")
    save_strategy: Strategy = knob("steps", "When to save a checkpoint.")
    save_steps: float = knob(500, "Steps between checkpoints (a share of all steps where below 1).", unit="steps", gt=0)
    save_total_limit: int | None = knob(None, "Checkpoints kept; older ones are removed.", gt=0)
    save_only_model: bool = knob(False, "Leave optimizer and random state out of checkpoints; such a run cannot be continued.")
    load_best_model_at_end: bool = knob(False, "End with the checkpoint of the best metric.")
    metric_for_best_model: str | None = knob(None, "Metric that decides; the evaluation loss where left out.")
    greater_is_better: bool | None = knob(None, "Whether the metric should rise.")
    early_stopping_steps: int | None = knob(None, "Stop after this many evaluations without a better metric.", gt=0)
    include_effective_tokens_per_second: bool = knob(False, "Report tokens that are not padding a second in the results.")
    disable_tqdm: bool = knob(False, "Show no progress bar.")
