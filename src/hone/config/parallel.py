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
    def engine(self) -> str:
        """Which way of spreading a model over processes the settings ask for."""
        return "zero" if stage_of(self.deepspeed) else "ddp"
