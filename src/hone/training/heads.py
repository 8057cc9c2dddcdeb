"""What sits on a model beside its output head: found, added, saved and read back with the weights that are trained.

Does not know what is learned with it, nor when a checkpoint is due.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from hone import log
from hone.adapters.apply import load_trained, rest_output_head, save_trained
from hone.adapters.folder import folders_of
from hone.config.adapter import Adapted
from hone.config.run import Run
from hone.errors import ModelError
from hone.models import score_head
from hone.models.forward import find_causal
from hone.models.score_head import find_score_head
from hone.models.value_head import (
    FILE,
    add_value_head,
    find_value_head,
    load_value_head,
    save_value_head,
    value_head_of,
    without_value_head,
)
from hone.objectives.base import Objective


@dataclass(frozen=True)
class Weights:
    """What was trained, to a folder and back."""

    save: Callable[[Path], None]
    load: Callable[[Path], None]


def fit_heads(run: Run, module: nn.Module, objective: Objective) -> None:
    """Rest the output head where nothing reads it, and give the module the value head that the objective asks for.

    Raises ModelError where the run only evaluates and no head was saved: its values would be random.
    """
    if not objective.needs_logits:
        rest_output_head(module, run.adapter)
    if objective.needs_score_head and not run.train.do_train and find_score_head(run.model, folders_of(run.adapter)) is None:
        raise ModelError(
            "there is no head that scores texts to evaluate: name a model or adapter of stage: classify or rerank, or write "
            "do_train: true"
        )
    if objective.needs_value_head:
        add_value_head(find_causal(module), _saved_head(run))


def _saved_head(run: Run) -> Path | None:
    if run.model.train_from_scratch:
        return None
    file = find_value_head(run.model, folders_of(run.adapter))
    if file is not None:
        log.info(f"the value head is that of {file}")
    elif not run.train.do_train:
        named = " or adapter_name_or_path" if isinstance(run.adapter, Adapted) else ""
        raise ModelError(
            f"there is no {FILE} to evaluate, under model_name_or_path{named}: name a reward model, or write do_train: true"
        )
    return file


def weights_of(run: Run, module: nn.Module, objective: Objective) -> Weights:
    """How the trained weights of `module` are kept, and what stands beside them; a value head notes the kind of training."""
    causal = find_causal(module)
    beside = objective.beside(run.data.cutoff_len, causal.config.get_text_config().hidden_size)
    head = value_head_of(causal)
    if objective.head is not None and isinstance(run.adapter, Adapted):
        beside |= {score_head.FILE: objective.head.settings()}

    def save(folder: Path) -> None:
        with without_value_head(causal):
            save_trained(module, folder)
        if head is not None:
            save_value_head(head, folder, run.objective.kind)
        for name, content in beside.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    def load(folder: Path) -> None:
        with without_value_head(causal):
            load_trained(module, folder)
        if head is not None:
            load_value_head(causal, folder / FILE)

    return Weights(save, load)
