"""Run: everything the user said, as one frozen tree.

Does not know how it was said: `flat` reads the YAML keys into it.
"""

from __future__ import annotations

from pydantic import Field

from hone.config.adapter import Adapter, Lora
from hone.config.api import ApiConfig
from hone.config.chat import ChatConfig
from hone.config.data import DataConfig
from hone.config.export import ExportConfig
from hone.config.generate import GenerateConfig
from hone.config.model import ModelConfig
from hone.config.objective import Objective, Sft
from hone.config.optimizer import OptimizerConfig
from hone.config.parallel import ParallelConfig
from hone.config.section import Section
from hone.config.serve import ServeConfig
from hone.config.track import TrackConfig
from hone.config.train import TrainConfig


class Run(Section):
    """The settings of every room."""

    model: ModelConfig
    chat: ChatConfig = ChatConfig()
    data: DataConfig = DataConfig()
    adapter: Adapter = Field(Lora(), discriminator="kind")
    objective: Objective = Field(Sft(), discriminator="kind")
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    parallel: ParallelConfig = ParallelConfig()
    generate: GenerateConfig = GenerateConfig()
    export: ExportConfig = ExportConfig()
    serve: ServeConfig = ServeConfig()
    api: ApiConfig = ApiConfig()
    track: TrackConfig = TrackConfig()
