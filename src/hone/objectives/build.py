"""The table of objectives: the kind a user writes to the class that learns that way.

Does not know what any of them does.
"""

from __future__ import annotations

from hone.config.objective import Objective as ObjectiveConfig
from hone.errors import ConfigError
from hone.objectives.base import Objective
from hone.table import Table

OBJECTIVES = Table(
    "objective",
    {
        "sft": "hone.objectives.sft:Sft",
        "pretrain": "hone.objectives.pretrain:Pretrain",
        "reward": "hone.objectives.reward:Reward",
        "grpo": "hone.objectives.grpo:Grpo",
        "ppo": "hone.objectives.ppo:Ppo",
    },
    group="hone.objectives",
    error=ConfigError,
)


def build_objective(settings: ObjectiveConfig) -> Objective:
    """The objective of `settings.kind`."""
    return OBJECTIVES.load(settings.kind)(settings)
