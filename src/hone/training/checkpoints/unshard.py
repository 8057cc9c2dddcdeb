"""Unshard: an ordinary model out of a checkpoint in shards, made by one process.

Does not know which engine, nor how many processes, wrote it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from hone import log
from hone.adapters.apply import attach, saved_weights
from hone.config import Run, load
from hone.config.shards import FOLDER, is_in_shards
from hone.errors import CheckpointError
from hone.inference.codec import load_codec
from hone.models.load import load_model
from hone.models.media.reader import load_reader
from hone.models.place import hub_name
from hone.objectives.build import build_objective
from hone.training.checkpoints import shards
from hone.training.checkpoints.checkpoint import problem_of
from hone.training.engines.moments import weight_names
from hone.training.heads import fit_heads, weights_of
from hone.training.planning.precision import load_dtype


@contextmanager
def ordinary(run: Run) -> Iterator[Run]:
    """The run of an export, whose model, where it is a checkpoint in shards, is written out beside export_dir meanwhile.

    Raises CheckpointError where the checkpoint is not whole, or of a stage whose head is not known without its data.
    """
    place = Path(run.model.model_name_or_path)
    if not is_in_shards(place):
        yield run
        return
    target = Path(run.export.export_dir or place.name)
    aside = target.with_name(f".{target.name}.whole")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        write_whole(place, aside)
        yield run.model_copy(update={"model": run.model.model_copy(update={"model_name_or_path": str(aside)})})
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def write_whole(source: Path, folder: Path) -> None:
    """The trained model of the checkpoint `source`, with tokenizer and settings, as its run would have written it at its end."""
    if problem := problem_of(source):
        raise CheckpointError(f"{source} cannot be read: {problem}")
    trained = load([str(source / "run.yaml")], "train")
    objective = build_objective(trained.objective)
    if objective.needs_score_head:
        raise CheckpointError(
            f"{source} is a checkpoint in shards of stage: {trained.objective.kind}, whose head is made by its data: "
            "continue the run (resume_from_checkpoint), whose end writes an ordinary model"
        )
    log.info(f"{source} is in shards: they are put together on the model it was trained from")
    cpu, length = torch.device("cpu"), trained.data.cutoff_len
    module = load_model(trained.model, dtype=load_dtype(trained), device=cpu, for_training=True, fused=False, length=length)
    learned = torch.bfloat16 if trained.train.pure_bf16 else torch.float32
    module = attach(module, trained.adapter, base_name=hub_name(trained.model), trained_dtype=learned)
    fit_heads(trained, module, objective)
    names = weight_names(module)
    shards.read_weights(source / FOLDER, {names[id(weight)]: weight for weight in saved_weights(module)})
    weights_of(trained, module, objective).save(folder)
    load_codec(trained.model, trained.chat, reader=load_reader(trained.model)).save(folder)
    shutil.copyfile(source / "run.yaml", folder / "run.yaml")
