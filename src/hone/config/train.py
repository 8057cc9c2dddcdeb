"""Settings of the training run: its length, batches, precision, logging, evaluation and checkpoints.

Does not know the objective.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hone.config.section import Section, knob

Strategy = Literal["no", "steps", "epoch"]


class TrainConfig(Section):
    """How the run goes."""

    output_dir: str = knob(
        "",
        "Folder of everything the run writes: checkpoints, the result, logs and the resolved settings. A URL (s3://, gs:// ...) "
        "works as well: each complete checkpoint is carried there while training goes on, and a run is continued from there.",
        example="saves/llama3-8b/lora/sft",
    )
    staging_dir: str = knob(
        "",
        "Folder of this machine below which a run works whose output_dir is a URL; ~/.cache/hone/runs where left out. It needs "
        "room for the checkpoints that are kept.",
        level="advanced",
        example="/scratch/runs",
    )
    do_train: bool = knob(False, "Trains. `hone train` does so where neither this nor do_eval or do_predict is written.")
    do_eval: bool = knob(
        False, "Evaluates after training, or the model as it is where do_train is false. Needs eval_dataset or val_size."
    )
    do_predict: bool = knob(
        False,
        "Answers the last question of every evaluation row, after training or with the model as it is, into "
        "generated_predictions.jsonl, and measures BLEU-4 and ROUGE against the answers that stand there. A run that is broken "
        "off is gone on with. Needs eval_dataset or val_size.",
    )
    overwrite_output_dir: bool = knob(
        False,
        "Starts anew although output_dir holds checkpoints; they are removed when the first new one is complete. Left"
        " off, the newest checkpoint is continued.",
    )
    resume_from_checkpoint: str | bool | None = knob(
        None,
        "Checkpoint folder to continue; true for the newest complete one of output_dir, false to start anew.",
        example="true",
    )
    num_train_epochs: float = knob(
        3.0, "Passes over the data. Fewer for large sets, more for small ones; watch the evaluation loss.", unit="epochs", gt=0
    )
    max_steps: int = knob(
        -1, "Number of optimizer steps; overrules num_train_epochs where positive.", unit="steps", ge=-1, example="1000"
    )
    per_device_train_batch_size: Annotated[int, Field(gt=0)] | Literal["auto"] = knob(
        8,
        "Sequences a device takes at once. Lower it where memory runs out, and raise gradient_accumulation_steps by "
        "the same factor: the result is the same. With auto, gradient_accumulation_steps says how many sequences a device takes "
        "in an optimizer step, as if they came one by one, and the plan takes as many of them at once as is fastest and fits.",
        unit="sequences",
    )
    per_device_eval_batch_size: int = knob(
        8, "Sequences a device evaluates at once. It changes speed and memory only.", unit="sequences", gt=0
    )
    gradient_accumulation_steps: int = knob(
        1, "Batches whose gradients make one optimizer step. Raise it for a larger step in the same memory.", unit="batches", gt=0
    )
    try_longest_first: bool | Literal["auto"] = knob(
        "auto",
        "Takes the longest micro-batch of the epoch forward and backward before the first step, without learning from it, so "
        "that a run that does not fit into memory says so at once. auto does so on every accelerator, and on a CPU of whose free "
        "memory the plan takes more than half. Turn it off where a single micro-batch takes minutes.",
        level="advanced",
    )
    max_grad_norm: float = knob(
        1.0, "Gradients longer than this are scaled down to it; 0 leaves them. Lower it where the loss jumps.", ge=0
    )
    bf16: bool | Literal["auto"] = knob(
        False,
        "Computes in bfloat16 and keeps trained weights in float32. Right for every GPU since 2020. auto does so where the "
        "device multiplies bfloat16 itself, a CPU with AVX512-BF16 or AMX too, computes in float32 elsewhere, and says which.",
    )
    fp16: bool = knob(False, "Computes in float16 with loss scaling. For older GPUs without bfloat16.")
    pure_bf16: bool = knob(
        False,
        "Keeps trained weights in bfloat16 too, which halves their memory; small updates are lost in rounding, but for optim: "
        "adamw_bf16.",
        level="advanced",
    )
    tf32: bool | None = knob(
        None,
        "Lets an NVIDIA GPU (Ampere or newer) compute float32 products in TF32: faster, with fewer digits.",
        level="advanced",
    )
    use_cpu: bool = knob(False, "Trains on the CPU although there is an accelerator.", level="advanced")
    gradient_checkpointing: bool | Literal["auto"] = knob(
        "auto",
        "Computes activations again in the backward pass, which saves much memory and makes steps up to a third slower. With "
        "auto the plan keeps them where its estimate says that they fit, and else the fastest way that does.",
    )
    gradient_checkpointing_kind: Literal["full", "selective", "offloaded"] | None = knob(
        None,
        "What is computed again: all of a layer (full), all but matrix products and attention, in memory between that and "
        "keeping everything (selective), or all of a layer while its input waits in host memory (offloaded, on a GPU, for the "
        "longest rows). Left out, it is full with gradient_checkpointing: true, and the plan's choice with auto.",
        level="advanced",
        example="selective",
    )
    offload_embedding: bool = knob(
        False,
        "Leaves the input embeddings in host memory, which frees about a GiB of a GPU for a vocabulary of 128,000; the rows of a "
        "batch's tokens are sent to it. For lora and oft on a GPU, where the embeddings do not learn and are not the output "
        "head too.",
        level="advanced",
    )
    fused_kernels: bool | Literal["auto"] = knob(
        "auto",
        "Computes norms, rotary position codes and gated products in fewer passes over memory, with less kept for the backward "
        "pass, wherever a module is proven to compute the same. auto does so on a CPU, where it was measured to pay. Write true "
        "to do so on a GPU too, in Triton kernels that have not run on a device yet, and to have weights in 4 bits turned back "
        "there beside the computation of the layer before; false leaves all as the family computes it.",
        level="advanced",
    )
    neftune_noise_alpha: float | None = knob(
        None,
        "Strength of noise added to the embeddings while training, which can make answers longer and richer (Jain et "
        "al. 2023). 5 is usual.",
        ge=0,
        level="advanced",
        example="5",
    )
    seed: int = knob(42, "Seed of everything random: new weights, dropout, order of the data.", ge=0)
    data_seed: int | None = knob(None, "Seed of the order of samples alone; `seed` where left out.", ge=0, level="advanced")
    disable_shuffling: bool = knob(
        False, "Takes samples in the order of the files. For data sorted on purpose, such as from easy to hard.", level="advanced"
    )
    full_determinism: bool = knob(
        False, "Uses only deterministic algorithms, so that two runs give the same bits. Slower.", level="advanced"
    )
    dataloader_drop_last: bool = knob(False, "Leaves out the last, smaller step of an epoch.", level="advanced")
    logging_strategy: Strategy = knob(
        "steps", "When to log: never, every logging_steps, or after each epoch. The last step is always logged.", level="advanced"
    )
    logging_steps: float = knob(
        500.0,
        "Steps between log lines (a share of all steps where below 1). 10 is comfortable to watch.",
        unit="steps",
        gt=0,
        example="10",
    )
    logging_first_step: bool = knob(False, "Logs the first step too.", level="advanced")
    eval_strategy: Strategy = knob("no", "When to evaluate: never, every eval_steps, or after each epoch.")
    eval_steps: float | None = knob(
        None,
        "Steps between evaluations (a share of all steps where below 1); logging_steps where left out. Needs "
        "eval_strategy: steps.",
        unit="steps",
        gt=0,
        example="100",
    )
    eval_delay: float = knob(
        0.0,
        "Epochs (with eval_strategy: epoch) or steps (with eval_strategy: steps) that pass before the first evaluation.",
        ge=0,
        level="advanced",
    )
    eval_on_start: bool = knob(False, "Evaluates before the first step too, which gives the figure to compare with.")
    save_strategy: Strategy = knob("steps", "When to save a checkpoint: never, every save_steps, or after each epoch.")
    save_steps: float = knob(500.0, "Steps between checkpoints (a share of all steps where below 1).", unit="steps", gt=0)
    save_total_limit: int | None = knob(
        None, "Number of checkpoints kept; older ones are removed, the best one stays.", unit="checkpoints", gt=0, example="3"
    )
    save_only_model: bool = knob(
        False, "Leaves optimizer and random state out of checkpoints. They are much smaller, and such a run cannot be continued."
    )
    load_best_model_at_end: bool = knob(
        False, "Ends with the checkpoint of the best metric instead of the last. Needs evaluation."
    )
    metric_for_best_model: str | None = knob(
        None,
        "Metric that decides which checkpoint is best; the evaluation loss where left out.",
        level="advanced",
        example="eval_loss",
    )
    greater_is_better: bool | None = knob(
        None, "Whether the metric should rise. Left out, it should where its name does not end in loss.", level="advanced"
    )
    early_stopping_steps: int | None = knob(
        None, "Stops after this many evaluations without a better metric.", unit="evaluations", gt=0, example="3"
    )
    stopped_exit_code: int | None = knob(
        None,
        "Exit code of a run that a signal (SIGTERM, SIGUSR1, Ctrl-C) stopped, its state saved. Left out, it is 128 plus the "
        "signal's number. Write the one that your scheduler takes for a wish to be started again.",
        ge=0,
        le=255,
        level="advanced",
        example="85",
    )
    include_effective_tokens_per_second: bool = knob(
        False, "Reports tokens that are not padding a second in the results.", level="advanced"
    )
    disable_tqdm: bool = knob(False, "Shows no progress bar. For logs that are kept in a file.", level="advanced")
