"""Elastic: where machines may come and go, a step stays what the settings say of the most machines; fewer accumulate more.

Does not know how machines are counted nor what a step learns from.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from hone import log
from hone.config.environment import Environment
from hone.config.run import Run
from hone.errors import TrainingError
from hone.training.planning.choose import divisors, sequences_of_a_step, with_batch


def shared_out(run: Run, environment: Environment, *, fixed: bool, variables: Mapping[str, str] = os.environ) -> Run:
    """The run with more accumulation where fewer than MAX_NNODES machines are here, so that a checkpoint of any number of them
    is continued by any other. Raises TrainingError where a step cannot be shared out so.

    fixed: the size of a micro-batch is part of what is learned. variables: torchrun's, of this process.
    """
    if not (environment.max_nodes and environment.rendezvous_id):
        return run
    here, machines = int(variables.get("LOCAL_WORLD_SIZE", "1")), environment.max_nodes
    world, most = int(variables.get("WORLD_SIZE", "1")), here * machines
    if world == most:
        return run
    each, rest = divmod(sequences_of_a_step(run) * most, world)
    asked = run.train.per_device_train_batch_size
    if rest or (fixed and asked != "auto" and each % asked):
        raise TrainingError(
            f"{world} processes are here and the batch is written for {most} ({machines} machines, MAX_NNODES): the "
            f"{sequences_of_a_step(run) * most} sequences of a step are no multiple of {world}. Let "
            "per_device_train_batch_size x gradient_accumulation_steps be a multiple of all numbers from MIN_NNODES to MAX_NNODES"
        )
    log.info(f"elastic: {world} processes of at most {most}, each takes {each} sequences a step, so that the step stays the same")
    if asked == "auto":
        return run.model_copy(update={"train": run.train.model_copy(update={"gradient_accumulation_steps": each})})
    micro = next(part for part in divisors(each) if part <= asked)
    return with_batch(run, micro, each // micro)
