"""Checkpoints in shards, written while training goes on: those that should be kept are, whole, and one that is cut off never was.

A write is made slow, refused or killed where torch hands bytes to the disk, or where the folder would appear. Tolerances as in
test_engines.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp

from hone import log
from hone.adapters.folder import read_folder
from hone.commands import export
from hone.config.model import ModelConfig
from hone.errors import CheckpointError, ModelError
from hone.models.tokenizer import load_tokenizer
from hone.training.checkpoints import checkpoint
from hone.training.checkpoints.keeper import Keeper
from tests import worlds
from tests.runs import largest_difference, losses_of, weights_of, write_run
from tests.training.test_engines import run_all

SHARDS = {"fsdp": "true", "save_async": True, "finetuning_type": "full", "save_strategy": "steps", "save_steps": 1}
CALM = {"lr_scheduler_type": "constant", "warmup_steps": 0, "max_steps": 4}


def slow_writes(seconds: float) -> None:
    """Each process's part of a checkpoint takes so long from now on; said is whether a save began while one was written."""
    write, settle = dcp.FileSystemWriter.write_data, Keeper.settle

    def late(self: Any, *arguments: Any) -> Any:
        time.sleep(seconds)
        return write(self, *arguments)

    def told(self: Keeper) -> None:
        if self._coming is not None and not self._coming.done():
            print("a save is waited for", flush=True)
        settle(self)

    dcp.FileSystemWriter.write_data, Keeper.settle = late, told  # type: ignore[method-assign]


def keeping(files: list[str]) -> int:
    slow_writes(0.3)
    return run_all(files)


def refused(file: str) -> int:
    """The disk of the second process is full from its second checkpoint on."""
    from hone.config import load, to_yaml
    from hone.training.prepare import prepare
    from hone.training.processes.launch import leave
    from hone.training.session import carry_out

    write, count = dcp.FileSystemWriter.write_data, []

    def full(self: Any, *arguments: Any) -> Any:
        count.append(1)
        if log.rank() == 1 and len(count) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(self, *arguments)

    dcp.FileSystemWriter.write_data = full  # type: ignore[method-assign]
    run = load([file], "train")
    try:
        carry_out(prepare(run, settings=to_yaml(run)))
    except CheckpointError as problem:
        print(f"told: {problem}", flush=True)
    leave(0)


def killed(file: str) -> int:
    """All processes die when the second checkpoint is written and has not appeared."""

    def never(folder: Path, **_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    complete = checkpoint.complete
    checkpoint.complete = lambda folder, **more: (never if folder.name == "checkpoint-2" else complete)(folder, **more)
    return run_all([file])


def whole_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint in shards, read by one process."""
    listed = dcp.FileSystemReader(folder / "sharded").read_metadata().state_dict_metadata
    found = {name: torch.empty(about.size) for name, about in listed.items() if name.startswith("weights/")}
    dcp.load(found, checkpoint_id=folder / "sharded", no_dist=True)
    return {name.removeprefix("weights/"): tensor for name, tensor in found.items()}


def test_the_best_and_the_last_are_kept_though_a_save_meets_the_one_before(tiny_run, tmp_path):
    """The same run with whole weights, each written before the next step, has the same weights at every step, to the bit."""
    best = {"val_size": 5, "eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True}
    best |= {"metric_for_best_model": "loss", "greater_is_better": True}  # so that the best is no late one
    base = {**tiny_run, **SHARDS, **CALM, **best, "gradient_accumulation_steps": 1}
    whole = {**base, "save_async": False, "output_dir": str(tmp_path / "whole")}
    files = [write_run(whole, tmp_path / "whole.yaml"), write_run({**base, "save_total_limit": 1}, tmp_path / "run.yaml")]
    said = worlds.fork(2, keeping, [str(file) for file in files], beside=files[0])
    assert "a save is waited for" in said
    folder = tmp_path / "out"
    kept, its = (
        Path(json.loads((place / "trainer_state.json").read_text())["best_model_checkpoint"]).name
        for place in (folder, tmp_path / "whole")
    )
    assert kept == its != "checkpoint-4", "the last was to be a worse one"
    assert [path.name for path in checkpoint.checkpoints(folder)] == [kept, "checkpoint-4"]
    assert not list(folder.glob(".checkpoint-*"))
    for name in (kept, "checkpoint-4"):
        assert not checkpoint.problem_of(folder / name)
        assert largest_difference(whole_weights(folder / name), weights_of(tmp_path / "whole" / name)) == 0.0
    assert largest_difference(weights_of(folder), whole_weights(folder / kept)) == 0.0
    used_elsewhere(folder / kept, tmp_path / "exported")


def used_elsewhere(kept: Path, exported: Path) -> None:
    """Named as a model or an adapter it is told what it is; exported it is the ordinary model."""
    whole = weights_of(kept.parent)  # the best was put into output_dir
    with pytest.raises(ModelError, match=rf"checkpoint in shards.*hone export model_name_or_path={kept} export_dir"):
        read_folder(kept)
    with pytest.raises(ModelError, match=r"checkpoint in shards"):
        load_tokenizer(ModelConfig(model_name_or_path=str(kept)))
    assert export.main([f"model_name_or_path={kept}", f"export_dir={exported}"]) == 0
    assert largest_difference(weights_of(exported), whole) == 0.0
    assert not list(exported.parent.glob(".*.whole"))


@pytest.mark.slow
def test_a_save_that_is_killed_before_it_appears_was_never_there_and_the_run_goes_on(tiny_run, tmp_path):
    settings = {**tiny_run, **SHARDS, **CALM, "save_total_limit": 2, "gradient_accumulation_steps": 1}
    file, folder = write_run(settings, tmp_path / "run.yaml"), tmp_path / "out"
    with pytest.raises(AssertionError):
        worlds.fork(2, killed, str(file), beside=file)
    assert [path.name for path in checkpoint.checkpoints(folder)] == ["checkpoint-1"]
    assert (folder / ".checkpoint-2.writing" / "sharded").is_dir()
    said = worlds.fork(2, run_all, [str(file)], beside=file)
    assert "continuing" in said and "checkpoint-1 at step 1 of 4" in said
    assert [path.name for path in checkpoint.checkpoints(folder)] == ["checkpoint-3", "checkpoint-4"]
    assert not list(folder.glob(".checkpoint-*"))
    straight = write_run({**settings, "output_dir": str(tmp_path / "straight")}, tmp_path / "straight.yaml")
    worlds.fork(2, run_all, [str(straight)], beside=straight)
    assert losses_of(folder)[-3:] == losses_of(tmp_path / "straight")[-3:]
    assert largest_difference(weights_of(folder), weights_of(tmp_path / "straight")) == 0.0


def test_a_process_that_cannot_write_ends_all_and_leaves_nothing_half(tiny_run, tmp_path):
    settings = {**tiny_run, **SHARDS, **CALM, "save_total_limit": 2, "gradient_accumulation_steps": 1}
    file, folder = write_run(settings, tmp_path / "run.yaml"), tmp_path / "out"
    said = worlds.fork(2, refused, str(file), beside=file)
    assert said.count("told: ") == 2 and said.count("No space left on device") == 2, said
    assert [path.name for path in checkpoint.checkpoints(folder)] == ["checkpoint-1"]
    assert not checkpoint.problem_of(folder / "checkpoint-1") and not list(folder.glob(".checkpoint-*"))
