"""Trial: the longest micro-batch goes forward and backward before the first step, so that a run that runs out does so at once.

Does not know how portions are made smaller. Weights, random numbers and the order of the data are as they were afterwards.
"""

from __future__ import annotations

from functools import partial

import torch

from hone import log
from hone.data.order import Steps
from hone.training.checkpoints.randomness import random_state, restore_random_state
from hone.training.feed import Feed, MicroBatch
from hone.training.loop import Work, form_alone
from hone.training.planning.memory import sized
from hone.training.portions import size_of


def try_longest(work: Work, feed: Feed, steps: Steps, *, step: int, state_bytes: int) -> None:
    """Form the gradients of the longest micro-batch from `step` to its epoch's end, of any process, and drop them.

    Where it does not fit, the portions of all processes become smaller, or TrainingError names the row. state_bytes: what the
    optimizer will hold and does not yet; an accelerator is made to hold as much meanwhile.
    """
    epoch, index = divmod(step, steps.num_steps_per_epoch)
    rows = steps.heaviest(epoch, index)
    device, states = work.device, random_state()
    fresh = device.device.type != "cpu" and not work.optimizer.state
    held = torch.empty(state_bytes if fresh else 0, dtype=torch.uint8, device=device.device)
    work.policy.module.train()
    batch = feed.lay_out(rows)
    try:
        work.portions.fitted([MicroBatch(batch, True)], partial(form_alone, work), partial(_drop, work), apart=True)
        work.portions.agree()
    finally:
        _drop(work)
        restore_random_state(states)
    del held
    tokens, _ = size_of(batch)
    at_once = work.portions.most or len(batch.parts)
    most = device.memory_bytes()
    peak = "" if device.device.type == "cpu" else f", {sized(most, most)} at its highest"
    log.info(f"tried first: the longest micro-batch, {len(rows)} examples of {tokens:,} tokens; {at_once} at once fit{peak}")


def _drop(work: Work) -> None:
    work.optimizer.zero_grad(set_to_none=True)
