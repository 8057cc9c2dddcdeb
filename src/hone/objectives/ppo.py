"""PPO: learn from one's own answers by a reward model's scores, a value head telling what was to be expected at each token.

Does not know how answers are drawn, who scores them, how batches are laid out or steps taken. Schulman et al. 2017; for language
models Ziegler et al. 2019 and Ouyang et al. 2022 (InstructGPT).

Axes: A answer of a rollout, B row, T token, N drawn token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hone.chat.codec import Codec
from hone.chat.encoded import IGNORE, Example
from hone.config.objective import Ppo as PpoConfig
from hone.data.batch import Batch
from hone.data.sample import Task
from hone.errors import TrainingError
from hone.inference.rollout import Sampling
from hone.models.policy import Policy
from hone.objectives.base import Loss, Usual
from hone.objectives.control import KlControl, Moments
from hone.objectives.onpolicy import (
    Figures,
    Further,
    Lesson,
    Lessons,
    OnPolicy,
    Processes,
    Rollout,
    Scorer,
    nothing_further,
)
from hone.objectives.returns import advantages_of, clipped_value, token_rewards, whitened
from hone.objectives.rewards.server import RewardServer
from hone.objectives.surrogate import clipped


class Ppo(OnPolicy, Usual):
    """-min(r A, clip(r) A) + c (V - R)^2 / 2 of each drawn token, A its advantage and R what came in the end."""

    sample = Task
    unit = "prompts"
    best_by = "eval_reward"
    metrics = ("reward", "objective/entropy", "completions/mean_length", "completions/clipped_ratio")
    has_labels = False
    needs_value_head = True
    reckons = True
    draws = 1
    fingerprint = "ppo-1"

    def __init__(self, settings: PpoConfig):
        self._settings = settings
        self.minibatches, self.reuses = settings.ppo_buffer_size, settings.ppo_epochs * settings.ppo_buffer_size
        self.check_every, self.check_bound = settings.sync_check_steps, settings.sync_check_bound
        self.needs_reference = settings.ppo_kl_coef > 0
        self.needs_reward_model = settings.reward_model_type != "api"
        target = settings.ppo_target if settings.ppo_kl_control == "adaptive" else None
        self._control = KlControl(settings.ppo_kl_coef, target, settings.ppo_kl_horizon)
        self._moments = Moments()

    def encode(self, samples: list[Task], codec: Codec) -> list[Example]:
        """The prompt of each, of which nothing is learned."""
        return [Example((codec.encode_prompt(sample.conversation),)) for sample in samples]

    def start(self, codec: Codec, sampling: Sampling) -> None:
        """Ask the server, where one scores, for a first score: what is wrong with it is told before a weight is loaded."""
        self._tokenizer, self._closing = codec.tokenizer, np.array(codec.closing, np.int32)
        if not self.needs_reward_model:
            settings = self._settings
            server = RewardServer(settings.reward_model, seconds=settings.reward_timeout, retries=settings.reward_retries)
            self.take(lambda talks: server([self._tokenizer.decode(ids) for ids in talks]))
            self._score([self._closing if len(self._closing) else np.array(codec.stop_ids[:1])])

    def take(self, scorer: Scorer) -> None:
        """The reward model, once it stands."""
        self._score = scorer

    def close(self) -> None:
        """Nothing to let go of."""

    def reckon(self, policy: Policy, batch: Batch) -> dict[str, Tensor]:
        """Log-probs under the policy that drew and under the reference, and the value before each token."""
        old_BT, values_BT = policy.logprobs_and_values(batch)
        reference_BT = policy.reference.token_logprobs(batch) if policy.reference is not None else old_BT
        return {"old": old_BT, "reference": reference_BT, "value": _before(values_BT)}

    def roll_out(self, rollouts: Sequence[Rollout], processes: Processes, further: Further = nothing_further) -> Lessons:
        """Scores of all processes, and of this one's answers the rewards, advantages and returns of each token."""
        del further
        scores, failure = self._scores(rollouts)
        apart = [float((one.reckoned["old"] - one.reckoned["reference"]).sum()) for one in rollouts]
        shares = processes.gather((failure, scores, apart))
        if failures := [text for text, _, _ in shares if text]:
            raise TrainingError(failures[0])
        everyone_A = np.array([score for _, share, _ in shares for score in share])
        first = sum(len(share) for _, share, _ in shares[: processes.rank])
        used_A = self._normalised(everyone_A)[first : first + len(rollouts)]
        lessons = self._lessons(rollouts, used_A, processes)
        figures = self._figures(rollouts, np.array(scores), used_A, np.array(apart))
        self._control.update(float(np.mean([one for _, _, share in shares for one in share])), len(everyone_A))
        return Lessons(lessons, figures)

    def judge(self, rollouts: Sequence[Rollout]) -> Figures:
        """Mean score, and the answers' length and entropy."""
        scores, failure = self._scores(rollouts)
        if failure:
            raise TrainingError(failure)
        return {"reward": (float(sum(scores)), float(len(scores)))} | _figures_of_answers(rollouts)

    def count(self, batch: Batch) -> int:
        """Drawn tokens."""
        return batch.num_trained

    def loss(self, policy: Policy, batch: Batch) -> Loss:
        """The summed loss of a batch's drawn tokens, with the router's balance loss; with gradient."""
        settings, drawn_BT = self._settings, batch.labels_BT != IGNORE
        with policy.balance(batch) as balance:
            logprobs_BT, values_BT = policy.logprobs_and_values(batch)
        old_N, value_N, advantage_N, return_N = (batch.aside[name][drawn_BT] for name in ("old", "value", "advantage", "return"))
        ratio_N, new_N = logprobs_BT[drawn_BT] - old_N, _before(values_BT)[drawn_BT]
        found = clipped(ratio_N, advantage_N, settings.ppo_cliprange, settings.ppo_cliprange)
        error_N, bounded_N = clipped_value(new_N, value_N, return_N, settings.ppo_cliprange_value)
        figures = {
            "loss/policy_avg": found.loss_N,
            "loss/value_avg": error_N,
            "policy/approxkl_avg": ratio_N.square() / 2,
            "policy/clipfrac_avg": (found.low_N | found.high_N).float(),
            "val/clipfrac_avg": bounded_N.float(),
            "val/error": (new_N - return_N).square(),
            "val/ratio": ratio_N.exp(),
        }
        metrics = {name: (numbers_N.detach().sum(), float(len(ratio_N))) for name, numbers_N in figures.items()}
        total = (found.loss_N + settings.ppo_vf_coef * error_N).sum()
        return Loss(total + balance().sum().to(total.device), metrics)

    def state(self) -> dict[str, Any]:
        """The coefficient of the divergence and the moments of the scores."""
        return {"kl_coef": self._control.coef, "scores": self._moments.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Put back what `state` gave."""
        self._control.coef = state["kl_coef"]
        self._moments.load(state["scores"])

    def _scores(self, rollouts: Sequence[Rollout]) -> tuple[list[float], str]:
        """The scores, or what went wrong: the other processes, which wait for them, must hear of it."""
        try:
            scores = self._score([self._whole(one) for one in rollouts])
        except TrainingError as problem:
            return [], str(problem)
        for score, one in zip(scores, rollouts, strict=True):
            if not np.isfinite(score):
                answer = self._tokenizer.decode(one.drawn.ids)[:80]
                seen = f"scored {one.place} with {score}, which was answered {answer!r}"
                return [], f"reward_model: {self._settings.reward_model} {seen}; a finite number is wanted: look at its weights"
        return scores, ""

    def _whole(self, rollout: Rollout) -> np.ndarray:
        """Prompt and answer as a conversation is learned by a reward model: an answer that ended is closed as the format does."""
        end = [self._closing] if rollout.drawn.finished else []
        return np.concatenate([rollout.prompt, rollout.drawn.ids, *end]).astype(np.int32)

    def _normalised(self, scores_A: np.ndarray) -> np.ndarray:
        if not self._settings.ppo_score_norm:
            return scores_A
        self._moments.update(scores_A)
        return self._moments.normalised(scores_A)

    def _lessons(self, rollouts: Sequence[Rollout], scores_A: np.ndarray, processes: Processes) -> list[Lesson]:
        settings, coef = self._settings, self._control.coef
        rewards = [
            token_rewards(one.reckoned["old"], one.reckoned["reference"], coef, float(score))
            for one, score in zip(rollouts, scores_A, strict=True)
        ]
        if settings.ppo_whiten_rewards:
            everything_N = _of_all(rewards, processes)
            rewards = [whitened(reward_N, everything_N, keep_mean=True) for reward_N in rewards]
        estimates = [
            advantages_of(reward_N, one.reckoned["value"], settings.ppo_gamma, settings.ppo_lambda)
            for one, reward_N in zip(rollouts, rewards, strict=True)
        ]
        everything_N = _of_all(estimates, processes)
        return [
            _lesson(one, estimate_N, whitened(estimate_N, everything_N))
            for one, estimate_N in zip(rollouts, estimates, strict=True)
        ]

    def _figures(self, rollouts: Sequence[Rollout], raw_A: np.ndarray, used_A: np.ndarray, apart_A: np.ndarray) -> Figures:
        """Of this process's answers; the mean of each over them."""
        coef, number = self._control.coef, float(len(rollouts))
        means = {
            "reward": raw_A,
            "objective/scores": used_A,
            "objective/kl": apart_A,
            "objective/non_score_reward": -coef * apart_A,
            "objective/rlhf_reward": used_A - coef * apart_A,
        }
        found = {name: (float(numbers_A.sum()), number) for name, numbers_A in means.items()}
        return found | {"objective/kl_coef": (coef, 1.0)} | _figures_of_answers(rollouts)


def _before(values_BT: Tensor) -> Tensor:
    """At each token the value of the text before it; of a row's first token, which is never drawn, there is none."""
    return torch.roll(values_BT, 1, dims=1)


def _lesson(rollout: Rollout, estimate_N: np.ndarray, advantage_N: np.ndarray) -> Lesson:
    value_N = rollout.reckoned["value"]
    figures = {
        "old": rollout.reckoned["old"],
        "value": value_N,
        "advantage": advantage_N,
        "return": estimate_N + value_N,
    }
    aside = {name: rollout.along(numbers_N) for name, numbers_N in figures.items()}
    return Lesson(rollout.row, rollout.sequence, aside)


def _of_all(parts: Sequence[np.ndarray], processes: Processes) -> np.ndarray:
    """The tokens' numbers of every process, one after the other."""
    return np.concatenate(processes.gather(np.concatenate(parts)))


def _figures_of_answers(rollouts: Sequence[Rollout]) -> Figures:
    number = float(len(rollouts))
    return {
        "objective/entropy": (-float(sum(one.drawn.logprobs.sum() for one in rollouts)), number),
        "completions/mean_length": (float(sum(len(one.drawn.ids) for one in rollouts)), number),
        "completions/clipped_ratio": (float(sum(not one.drawn.finished for one in rollouts)), number),
    }
