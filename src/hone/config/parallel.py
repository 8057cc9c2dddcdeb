"""Settings of several processes that train together.

Does not know how many there are: the launcher does.
"""

from __future__ import annotations

from typing import Any

from hone.config.section import Section, knob


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
    save_async: bool = knob(
        False,
        "Checkpoints are copied to host memory and written while training goes on; the next one waits for it. They are then "
        "shards (folder sharded), which only hone reads; the final model is written as always.",
        level="advanced",
    )

    @property
    def engine(self) -> str:
        """Which way of spreading a model over processes the settings ask for."""
        if self.tensor_parallel_size > 1:
            return "fsdp"  # what is left of the processes shares weights
        return "fsdp" if self.fsdp and self.fsdp[0].lower() not in ("false", "no", "off", "n", "0") else "ddp"
