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
        "distill": "hone.objectives.distill:Distill",
        "gkd": "hone.objectives.gkd:Gkd",
        "grpo": "hone.objectives.grpo:Grpo",
        "preference": "hone.objectives.preference:Preference",
        "kto": "hone.objectives.kto:Kto",
        "ppo": "hone.objectives.ppo:Ppo",
        "reward": "hone.objectives.reward:Reward",
        "embed": "hone.objectives.embed:Embed",
        "classify": "hone.objectives.classify:build_classify",
        "rerank": "hone.objectives.rerank:Rerank",
    },
    group="hone.objectives",
    error=ConfigError,
)


def build_objective(settings: ObjectiveConfig) -> Objective:
    """The objective of `settings.kind`."""
    return OBJECTIVES.load(settings.kind)(settings)
