"""GRPO and its variants: learn from groups of one's own answers, by how much better each is than the others of its group.

Does not know how answers are drawn, batches laid out or steps taken. GRPO itself (Shao et al. 2024, DeepSeekMath), Dr. GRPO (Liu
et al. 2025), DAPO (Yu et al. 2025), GSPO (Zheng et al. 2025) and RLOO (Ahmadian et al. 2024) are settings of it.

Axes: P prompt, G answer of a group, S sequence of a batch, B row, T token, N drawn token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hone import log
from hone.chat.codec import Codec
from hone.chat.encoded import IGNORE, Example
from hone.config.objective import Grpo as GrpoConfig
from hone.data.batch import Batch
from hone.data.build import TokenSet
from hone.data.sample import Task
from hone.errors import TrainingError
from hone.inference.rollout import Sampling
from hone.models.policy import Policy
from hone.objectives.advantage import advantages, telling, tells_nothing
from hone.objectives.base import Loss, Usual
from hone.objectives.onpolicy import (
    ANSWER_FIGURES,
    Figures,
    Further,
    Lesson,
    Lessons,
    OnPolicy,
    Processes,
    Rollout,
    nothing_further,
    of_answers,
)
from hone.objectives.rewards.builtin import COMPARED, DEFAULT_FORMAT, Rules
from hone.objectives.rewards.case import Case, answer_of, read_note, write_note
from hone.objectives.rewards.judge import Judge, Verdict, names_of
from hone.objectives.surrogate import Clipped, clipped, corrected, divergence, importance, items, log_ratio, token_weights


@dataclass(frozen=True)
class _Drawing:
    """rollouts, verdicts: of this process, from answer `first` of the drawing on. The others are of all processes."""

    rollouts: Sequence[Rollout]
    verdicts: Sequence[Verdict]
    first: int
    rewards_PG: Tensor
    finished_PG: Tensor


class Grpo(OnPolicy, Usual):
    """-min(r A, clip(r) A) + beta KL of each drawn token, A the advantage of its answer in its group."""

    sample = Task
    unit = "prompts"
    best_by = "eval_reward"
    has_labels = False
    fingerprint = "grpo-1"

    def __init__(self, settings: GrpoConfig):
        self._settings = settings
        self.draws, self.reuses = settings.num_generations, settings.num_iterations
        self.most_draws = settings.dynamic_sampling_max_draws if settings.dynamic_sampling else 1
        self.check_every, self.check_bound = settings.sync_check_steps, settings.sync_check_bound
        self.needs_reference = settings.beta > 0
        self.metrics = ("reward", *_figures_of_rewards(names_of(settings.reward_funcs)), *ANSWER_FIGURES)

    def encode(self, samples: list[Task], codec: Codec) -> list[Example]:
        """The prompt of each, of which nothing is learned yet; its note is what rewards must know."""
        return [_example(sample, codec) for sample in samples]

    def problem_of(self, tokens: TokenSet) -> str:
        """A reward that compares with the rows' answers gives nothing where no row has one."""
        compared = [(name, *COMPARED[name]) for name in self._settings.reward_funcs if name in COMPARED]
        answers = list(map(answer_of, tokens.notes)) if compared else []
        for name, wanted, has in compared:
            if not any(map(has, answers)):
                return (
                    f"reward_funcs: {name} compares with what the rows answer, and of {len(answers):,} rows none has {wanted}: "
                    "every reward would be 0. Name the column of answers (response in its entry's columns), or leave it out"
                )
        return ""

    def start(self, codec: Codec, sampling: Sampling) -> None:
        """Load the reward functions."""
        settings = self._settings
        rules = Rules(settings.reward_format_pattern or DEFAULT_FORMAT, sampling.num_new)
        self._judge = Judge(settings.reward_funcs, settings.reward_weights, rules, seconds=settings.reward_timeout)
        self._judge.start()
        self._tokenizer, self._longest = codec.tokenizer, sampling.num_new

    def close(self) -> None:
        """End the reward functions' processes."""
        self._judge.close()

    def roll_out(self, rollouts: Sequence[Rollout], processes: Processes, further: Further = nothing_further) -> Lessons:
        """Rewards, the advantages of the step's groups, and what each answer counts for."""
        drawings = [self._judged(rollouts, processes)]
        wanted = len(drawings[0].rewards_PG)
        while self._settings.dynamic_sampling and self._num_telling(drawings) < wanted and len(drawings) < self.most_draws:
            drawings.append(self._judged(further(), processes))
        rewards_PG, learned_PG = _joined(drawings, "rewards_PG"), self._learned(drawings)
        chosen_P = self._chosen(rewards_PG, learned_PG, wanted)
        chances_PG = torch.zeros_like(rewards_PG, dtype=torch.float32)
        if chosen_P.any():
            estimator, scale = self._settings.advantage_estimator, self._settings.scale_rewards
            chances_PG[chosen_P] = advantages(rewards_PG[chosen_P], estimator, scale)
        learned_PG &= chosen_P.unsqueeze(-1)
        if not learned_PG.any():  # then the step is taken, and nothing is learned by it
            learned_PG[:wanted], chances_PG = True, torch.zeros_like(chances_PG)
        lessons = self._lessons(drawings, learned_PG, chances_PG)
        return Lessons(lessons, self._figures(drawings, rewards_PG, int(chosen_P.sum())))

    def judge(self, rollouts: Sequence[Rollout]) -> Figures:
        """Mean reward, of each function too, and the answers' length."""
        verdicts = self._judge.judge([self._case(one) for one in rollouts])
        rewards = {"reward": (sum(one.reward for one in verdicts), float(len(verdicts)))}
        return rewards | self._sums_of_answers(rollouts, verdicts)

    def count(self, batch: Batch) -> int:
        """Answers that are learned; their tokens under loss_type dapo."""
        learned_S = batch.aside["learned"]
        tokens_S = batch.sums((batch.labels_BT != IGNORE).float())
        return items(int(learned_S.sum()), int((learned_S * tokens_S).sum()), self._settings.loss_type)

    def loss(self, policy: Policy, batch: Batch) -> Loss:
        """The summed loss of a batch, each token weighed by loss_type, with the router's balance loss; with gradient."""
        settings, drawn_BT = self._settings, batch.labels_BT != IGNORE
        with policy.balance(batch) as balance:
            new_N, sequence_N = policy.token_logprobs(batch)[drawn_BT], batch.sequences_BT[drawn_BT]
        num, learned_N = len(batch.aside["learned"]), batch.aside["learned"][sequence_N]
        old_N = batch.aside["old"][drawn_BT] if self.reuses > 1 else new_N.detach()
        ratio_N = log_ratio(new_N, old_N, sequence_N, num, settings.importance_sampling_level)
        high = settings.epsilon if settings.epsilon_high is None else settings.epsilon_high
        found = clipped(ratio_N, batch.aside["advantage"][sequence_N], settings.epsilon, high)
        loss_N, metrics = found.loss_N, _clip_shares(found, learned_N)
        if settings.importance_sampling_correction:
            correction_N = importance(old_N, batch.aside["drawn"][drawn_BT], settings.importance_sampling_cap)
            loss_N = loss_N * correction_N
            metrics["sampling/importance_sampling_ratio/mean"] = _sum(correction_N, learned_N)
        if settings.beta:
            kl_N = divergence(new_N, policy.reference.token_logprobs(batch)[drawn_BT])
            if settings.use_bias_correction_kl:
                kl_N = corrected(kl_N, new_N, old_N)
            loss_N = loss_N + settings.beta * kl_N
            metrics["kl"] = _sum(kl_N, learned_N)
        weights_N = learned_N * token_weights(sequence_N, num, settings.loss_type, self._longest)
        total = (loss_N * weights_N).sum()
        if (balance_BT := balance()).dim():  # the mean over what a step's sum is divided by
            shares = token_weights(sequence_N, num, "dapo" if settings.loss_type == "dapo" else "grpo", self._longest)
            total = total + (balance_BT[drawn_BT].to(total.device) * learned_N * shares).sum()
        return Loss(total, metrics)

    def _judged(self, rollouts: Sequence[Rollout], processes: Processes) -> _Drawing:
        """The verdicts of this process's answers, the rewards of all; what goes wrong on one process is raised on all."""
        verdicts, failure = self._verdicts(rollouts)
        told = [(verdict.reward, one.drawn.finished) for verdict, one in zip(verdicts, rollouts, strict=True)]
        shares = processes.gather((failure, told))
        if failures := [text for text, _ in shares if text]:
            raise TrainingError(failures[0])
        rewards, finished = zip(*(pair for _, share in shares for pair in share), strict=True)
        return _Drawing(
            rollouts,
            verdicts,
            sum(len(share) for _, share in shares[: processes.rank]),
            torch.tensor(rewards, dtype=torch.float64).view(-1, self.draws),
            torch.tensor(finished).view(-1, self.draws),
        )

    def _verdicts(self, rollouts: Sequence[Rollout]) -> tuple[list[Verdict], str]:
        """The verdicts, or what went wrong: the other processes, which wait for them, must hear of it."""
        try:
            return self._judge.judge([self._case(one) for one in rollouts]), ""
        except TrainingError as problem:
            return [Verdict(0.0, ())] * len(rollouts), str(problem)

    def _case(self, rollout: Rollout) -> Case:
        ids = rollout.drawn.ids.tolist()
        text = self._tokenizer.decode(ids[:-1] if rollout.drawn.finished else ids, skip_special_tokens=True)
        return read_note(rollout.note, completion=text, ids=ids, place=rollout.place)

    def _learned(self, drawings: Sequence[_Drawing]) -> Tensor:
        """bool [P, G]: which answers the settings let count."""
        rewards_PG = _joined(drawings, "rewards_PG")
        learned_PG = torch.ones_like(rewards_PG, dtype=torch.bool)
        if self._settings.filter_groups:
            learned_PG &= ~tells_nothing(rewards_PG).unsqueeze(-1)
        if self._settings.mask_truncated_completions:
            learned_PG &= _joined(drawings, "finished_PG")
        return learned_PG

    def _num_telling(self, drawings: Sequence[_Drawing]) -> int:
        return int(telling(_joined(drawings, "rewards_PG"), self._learned(drawings)).sum())

    def _chosen(self, rewards_PG: Tensor, learned_PG: Tensor, wanted: int) -> Tensor:
        """bool [P]: the groups of the step: all that were drawn, or the first that tell something, as many as are wanted."""
        if not self._settings.dynamic_sampling:
            return torch.ones(len(rewards_PG), dtype=torch.bool)
        told_P = telling(rewards_PG, learned_PG)
        if (num := int(told_P.sum())) < wanted:
            log.info(
                f"dynamic_sampling: after {self.most_draws} drawings of {wanted} prompts the answers to {num} have rewards that "
                f"differ; the step learns from {'those' if num else 'nothing'}"
            )
        return told_P & (told_P.cumsum(0) <= wanted)

    def _lessons(self, drawings: Sequence[_Drawing], learned_PG: Tensor, chances_PG: Tensor) -> list[Lesson]:
        """Of this process's answers those that count; one that does not, where none does and none is shared out anew."""
        learned, chances, found, start = learned_PG.flatten().tolist(), chances_PG.flatten().tolist(), [], 0
        for drawing in drawings:
            places = range(start + drawing.first, start + drawing.first + len(drawing.rollouts))
            found += [
                self._lesson(one, chances[at], True) for one, at in zip(drawing.rollouts, places, strict=True) if learned[at]
            ]
            start += drawing.rewards_PG.numel()
        return found if found or self.most_draws > 1 else [self._lesson(drawings[0].rollouts[0], 0.0, False)]

    def _lesson(self, rollout: Rollout, advantage: float, learned: bool) -> Lesson:
        aside = {"advantage": advantage, "learned": float(learned)}
        if self._settings.importance_sampling_correction:
            aside["drawn"] = rollout.along(rollout.drawn.drawn_logprobs)
        if self.reuses > 1:
            assert rollout.old is not None, "reused answers come with the log-probs of the policy that drew them"
            aside["old"] = rollout.along(rollout.old)
        return Lesson(rollout.row, rollout.sequence, aside)

    def _figures(self, drawings: Sequence[_Drawing], rewards_PG: Tensor, num_kept: int) -> Figures:
        """Of everything that was drawn. Rewards are of all processes, and each tells the same: their mean leaves it as it is."""
        groups = float(len(rewards_PG))
        found = {
            "reward": (float(rewards_PG.sum()), float(rewards_PG.numel())),
            "reward_std": (float(rewards_PG.std(-1).sum()), groups),
            "frac_reward_zero_std": (float(tells_nothing(rewards_PG).sum()), groups),
        }
        if self._settings.dynamic_sampling:
            found |= {"dynamic_sampling/groups_drawn": (groups, 1.0), "dynamic_sampling/groups_kept": (float(num_kept), 1.0)}
        rollouts = [one for drawing in drawings for one in drawing.rollouts]
        return found | self._sums_of_answers(rollouts, [one for drawing in drawings for one in drawing.verdicts])

    def _sums_of_answers(self, rollouts: Sequence[Rollout], verdicts: Sequence[Verdict]) -> Figures:
        number = float(len(rollouts))
        sums = [(sum(one.parts[index] for one in verdicts), number) for index in range(len(self._judge.names))]
        return dict(zip(_figures_of_rewards(self._judge.names), sums, strict=True)) | of_answers(rollouts)


def _joined(drawings: Sequence[_Drawing], name: str) -> Tensor:
    return torch.cat([vars(drawing)[name] for drawing in drawings])


def _figures_of_rewards(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"rewards/{name}/mean" for name in names)


def _example(sample: Task, codec: Codec) -> Example:
    note = write_note(sample.conversation, sample.answer, sample.columns)
    return Example((codec.encode_prompt(sample.conversation),), note=note)


def _sum(values_N: Tensor, learned_N: Tensor) -> tuple[Tensor, Tensor]:
    return (values_N.detach() * learned_N).sum(), learned_N.sum()


def _clip_shares(found: Clipped, learned_N: Tensor) -> dict[str, tuple[Tensor, Tensor | float]]:
    shares = {"low_mean": found.low_N, "high_mean": found.high_N, "region_mean": found.low_N | found.high_N}
    return {f"clip_ratio/{name}": _sum(clipped_N.float(), learned_N) for name, clipped_N in shares.items()}
