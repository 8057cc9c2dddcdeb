"""Settings of several processes that train together.

Does not know how many there are: the launcher does.
"""

from __future__ import annotations

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

    @property
    def engine(self) -> str:
        """Which way of spreading a model over processes the settings ask for."""
        return "ddp"
