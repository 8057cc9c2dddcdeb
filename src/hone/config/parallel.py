"""Settings of several processes that train together.

Does not know how many there are: the launcher does.
"""

from __future__ import annotations

from typing import Any, Literal

from hone.config.section import Section, knob
from hone.config.zero import stage_of


class ParallelConfig(Section):
    """How processes are joined."""

    ddp_timeout: int = knob(
        1800,
        "Time a process waits for the others before the run fails. Lower it to hear of a hang sooner; preparing data "
        "does not count.",
        unit="seconds",
        gt=0,
        level="advanced",
    )
    watchdog_timeout: int = knob(
        600,
        "Time a process may stay at one place of a step before the run ends with its rank, machine, stack and rows, and a "
        "checkpoint where one can be written. Raise it where a micro-batch takes longer; 0 watches nothing. Evaluating, saving "
        "and drawing answers are not held against it.",
        unit="seconds",
        ge=0,
        level="advanced",
    )
    join_timeout: int = knob(
        60,
        "Time that processes and machines wait for each other at the start. Then the run ends and names who did not come, "
        "or who does not answer. Raise it where machines start far apart, as pods that are still fetching their image do.",
        unit="seconds",
        gt=0,
        level="advanced",
    )
    ddp_backend: str | None = knob(
        None,
        "Library that moves gradients between processes. Left out, nccl on GPUs and gloo on CPUs.",
        level="advanced",
        example="gloo",
    )
    ddp_find_unused_parameters: bool | None = knob(
        None,
        "Looks for trained weights that took no part in a step. Turn it on only for models that use some of their "
        "parts by turns; it costs time.",
        level="advanced",
    )
    ddp_bucket_cap_mb: int | None = knob(
        None, "Size of the pieces in which gradients are sent; 25 where left out.", unit="MB", gt=0, level="advanced"
    )
    fsdp: tuple[str, ...] = knob(
        (),
        "Gives every process a share of the weights, gradients and optimizer states in place of copies (FSDP2, torch's "
        "fully_shard). true is enough; full_shard, shard_grad_op, hybrid_shard, hybrid_shard_zero2, offload and auto_wrap are "
        "understood as transformers means them. For models that do not fit one device.",
        example="full_shard auto_wrap",
    )
    fsdp_config: dict[str, Any] | str | None = knob(
        None,
        "How weights are sharded: a mapping, or a JSON file, with transformers' keys (reshard_after_forward, cpu_offload, "
        "cpu_ram_efficient_loading, transformer_layer_cls_to_wrap, state_dict_type, activation_checkpointing ...), or the YAML "
        "file of `accelerate launch`, which turns fsdp on by itself.",
        level="advanced",
        example="fsdp2_config.yaml",
    )
    fsdp_transformer_layer_cls_to_wrap: tuple[str, ...] = knob(
        (),
        "Classes of the layers that are gathered one by one, with commas between them; found by the family's structure where "
        "left out.",
        level="advanced",
        example="LlamaDecoderLayer",
    )
    tensor_parallel_size: int = knob(
        1,
        "Processes after each other that compute each layer together, every one a part of its products, by the family's plan in "
        "transformers. They see the same batches. For layers too large for one device; keep it within a machine.",
        ge=1,
        level="advanced",
    )
    context_parallel_size: int = knob(
        1,
        "Processes after each other that compute each packed row together, every one a part of its tokens and, in attention, of "
        "its heads. For texts whose activations do not fit one device. It must divide the processes, and the heads. With DDP and "
        "fsdp, for stages pt, sft, dpo and kto.",
        ge=1,
        level="advanced",
    )
    save_async: bool = knob(
        False,
        "Checkpoints are copied to host memory and written while training goes on; the next one waits for it. They are then "
        "shards (folder sharded), which only hone reads (`hone export` makes a model of one); the final model is written "
        "as always.",
        level="advanced",
    )

    deepspeed: str | dict[str, Any] | None = knob(
        None,
        "DeepSpeed's JSON file, or what stands in it. ZeRO shares out moments (stage 1), gradients (2) and weights (3) over the "
        "processes, so that larger models fit, and can hold them in host memory. Its fields are listed in docs/scaling.md; auto "
        "takes this file's own value.",
        example="ds_z3_config.json",
    )
    use_ray: bool = knob(
        False,
        "Starts the processes on a Ray cluster: the one that RAY_ADDRESS or ray_init_kwargs names, or one of this machine alone. "
        "The environment variable USE_RAY says the same.",
    )
    ray_num_workers: int = knob(1, "Processes on the Ray cluster, one a GPU.", unit="processes", gt=0, example="8")
    ray_init_kwargs: dict[str, Any] = knob(
        {}, "What ray.init is given, as a mapping.", level="advanced", example='{address: "auto"}'
    )
    placement_strategy: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] = knob(
        "PACK",
        "Whether Ray puts the processes on few machines (PACK) or on many (SPREAD); the strict ones wait until they can.",
        level="advanced",
    )
    resources_per_worker: dict[str, float] = knob(
        {},
        "What Ray sets aside for each process, as a mapping; left out, one CPU, and one GPU unless use_cpu is on.",
        level="advanced",
        example="{GPU: 1, CPU: 8}",
    )

    @property
    def together(self) -> int:
        """How many processes compute the same rows together."""
        return self.tensor_parallel_size * self.context_parallel_size

    @property
    def engine(self) -> str:
        """Which way of spreading a model over processes the settings ask for."""
        if stage_of(self.deepspeed):
            return "zero"
        if self.tensor_parallel_size > 1:
            return "fsdp"  # what is left of the processes shares weights
        return "fsdp" if self.fsdp and self.fsdp[0].lower() not in ("false", "no", "off", "n", "0") else "ddp"
