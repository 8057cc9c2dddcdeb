"""Prompts of a run that learns from its own answers: how many a step takes, whether their answers have room, how they are drawn.

Does not know which engine draws, nor what is learned.
"""

from __future__ import annotations

import numpy as np

from hone.chat.codec import Codec
from hone.config.run import Run
from hone.data.order import Steps
from hone.errors import RunError
from hone.inference.rollout import Sampling
from hone.inference.sampling import rollout_sampling
from hone.models.load import load_config
from hone.objectives.onpolicy import OnPolicy


def ready_to_draw(run: Run, objective: OnPolicy, codec: Codec, pad_id: int) -> Sampling:
    """How answers are drawn, the objective made ready to judge them. Raises RunError where a reward is not there."""
    sampling = rollout_sampling(run.generate, stop_ids=codec.stop_ids, pad_id=pad_id)
    objective.start(codec, sampling)
    return sampling


def prompt_steps(run: Run, objective: OnPolicy, lengths: np.ndarray, *, world: int, seed: int) -> Steps:
    """The prompts of each drawing: a step's batch size counts answers, `draws` to each prompt; `minibatches` steps share them.

    Raises RunError where a step would not hold whole groups, or leave a process without an answer.
    """
    train, draws = run.train, objective.draws
    answers = train.per_device_train_batch_size * train.gradient_accumulation_steps * world
    made = (
        f"per_device_train_batch_size {train.per_device_train_batch_size} x gradient_accumulation_steps "
        f"{train.gradient_accumulation_steps} x processes {world} = {answers} answers a step"
    )
    if answers % draws:
        raise RunError(f"{made}; wanted a multiple of num_generations: {draws}, so that a step holds whole groups")
    per_step = answers * objective.minibatches // draws
    if objective.most_draws > 1 and len(lengths) < per_step:
        raise RunError(f"{made} are {per_step} prompts, and dynamic_sampling needs that many; the data hold {len(lengths)}")
    last, least = len(lengths) % per_step * draws, world * objective.minibatches
    drop_last = train.dataloader_drop_last or objective.most_draws > 1  # such a drawing would be another size than its step
    if 0 < last < least and not drop_last:
        shared = f"{world} processes" + (f" in {objective.minibatches} steps" if objective.minibatches > 1 else "")
        raise RunError(
            f"{made}; the last drawing of an epoch has {last} answers, too few for {shared}; write dataloader_drop_last: true"
        )
    shuffle = not train.disable_shuffling
    return Steps(lengths, per_step=per_step, micro=per_step, world=1, seed=seed, shuffle=shuffle, drop_last=drop_last)


def answers_at_once(run: Run) -> int:
    """Answers that a process draws together: rollout_batch_size, or all of its answers of a step."""
    return run.objective.rollout_batch_size or run.train.per_device_train_batch_size * run.train.gradient_accumulation_steps


def require_room(run: Run, longest: int) -> None:
    """Raise RunError where the longest prompt and answer together, in tokens, are more than the model can hold."""
    limit = load_config(run.model).get_text_config().to_dict().get("max_position_embeddings")
    if limit is not None and longest > limit and not run.model.rope_scaling:
        raise RunError(
            f"the longest prompt and max_new_tokens: {run.generate.max_new_tokens} are {longest} tokens together, and the model "
            f"can hold {limit}; lower max_new_tokens, or leave out long prompts (cutoff_len with overlong: drop)"
        )
