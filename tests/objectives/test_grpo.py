"""GRPO: rewards become advantages over all processes, answers count as settings say, the loss is the papers' formula by hand."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from hone.config.objective import Grpo as GrpoConfig
from hone.data.batch import Batch, pack
from hone.errors import TrainingError
from hone.inference.rollout import Drawn, Sampling
from hone.objectives.advantage import SMALL
from hone.objectives.grpo import Grpo
from hone.objectives.onpolicy import Lesson, Rollout
from tests.objectives.told import Routed

SAMPLING = Sampling(num_new=4, stop_ids=(9,), pad_id=0)
EXACT = {"rtol": 1e-5, "atol": 1e-6}  # fp32's own roundings


class Speller:
    """Stands for codec and tokenizer: token n is the letter n of the alphabet."""

    @property
    def tokenizer(self) -> Speller:
        return self

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        return "".join(chr(97 + token) for token in ids)


class Alone:
    """One process."""

    rank = 0

    def gather(self, value: Any) -> list[Any]:
        return [value]


class OneOfTwo:
    """A process whose neighbour's value is known beforehand."""

    def __init__(self, rank: int, other: Any):
        self.rank, self.other = rank, other

    def gather(self, value: Any) -> list[Any]:
        return [value, self.other] if self.rank == 0 else [self.other, value]


def objective(**settings) -> Grpo:
    found = Grpo(GrpoConfig(**{"reward_funcs": ("exact_match",), "num_generations": 2, **settings}))
    found.start(Speller(), SAMPLING)
    return found


def rollout(ids: list[int], answer: str, *, row: int = 0, prompt: tuple[int, ...] = (5, 6)) -> Rollout:
    figures = np.full(len(ids), -1.0, np.float32)
    drawn = Drawn(np.array(ids, np.int32), figures, figures, ids[-1] == 9, np.full(len(ids), 2.0, np.float32))
    note = json.dumps({"answer": answer, "prompt": [], "columns": {}})
    return Rollout(row, f"rows row {row}", np.array(prompt, np.int32), note, drawn, {"old": figures})


TWO_GROUPS = [rollout([0, 9], "a"), rollout([1, 9], "a"), rollout([2, 9], "c", row=1), rollout([2, 9], "c", row=1)]
"""Rewards 1, 0 of the first prompt and 1, 1 of the second."""


def test_rewards_become_advantages_of_groups() -> None:
    found = objective().roll_out(TWO_GROUPS, Alone())
    high = 0.5 / (math.sqrt(0.5) + SMALL)
    assert [one.aside["advantage"] for one in found.lessons] == pytest.approx([high, -high, 0, 0])
    assert [one.aside["learned"] for one in found.lessons] == [1, 1, 1, 1]
    assert found.lessons[0].sequence.ids.tolist() == [5, 6, 0, 9]
    assert found.lessons[0].sequence.labels.tolist() == [-100, -100, 0, 9]
    assert found.metrics["reward"] == (3.0, 4.0) and found.metrics["frac_reward_zero_std"] == (1.0, 2.0)
    assert found.metrics["reward_std"] == (pytest.approx(math.sqrt(0.5)), 2.0)
    assert found.metrics["rewards/exact_match/mean"] == (3.0, 4.0)
    assert found.metrics["completions/mean_length"] == (8.0, 4.0) and found.metrics["entropy"] == (16.0, 8.0)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_group_may_lie_on_two_processes(rank: int) -> None:
    """Process 0 holds one answer of the group (reward 1), process 1 the other (0)."""
    shares = [("", [(1.0, True)]), ("", [(0.0, True)])]
    found = objective(scale_rewards="none").roll_out(TWO_GROUPS[rank : rank + 1], OneOfTwo(rank, shares[1 - rank]))
    assert [one.aside["advantage"] for one in found.lessons] == [0.5 - rank]
    assert found.metrics["reward"] == (1.0, 2.0)


def test_groups_that_say_nothing_are_left_out() -> None:
    found = objective(filter_groups=True).roll_out(TWO_GROUPS, Alone())
    assert [one.row for one in found.lessons] == [0, 0]
    assert found.metrics["reward"] == (3.0, 4.0), "they are still told of"


def test_a_process_without_an_answer_to_learn_keeps_one_that_counts_nothing() -> None:
    """Its neighbour learns, and both take as many steps."""
    other = ("", [(1.0, True), (0.0, True)])
    found = objective(filter_groups=True).roll_out(TWO_GROUPS[2:], OneOfTwo(1, other))
    assert [one.aside["learned"] for one in found.lessons] == [0.0]


def group(row: int, first: float, second: float) -> list[Rollout]:
    """Two answers to the prompt of a row: a good one is the letter that is wanted."""
    return [rollout([0 if reward else 1, 9], "a", row=row) for reward in (first, second)]


DULL, DUD = group(0, 1, 1), group(1, 0, 0)


def test_further_prompts_take_the_place_of_groups_that_say_nothing(capsys) -> None:
    """Two are wanted: one of the first two tells something, none of the next, both of the last; of these the first will do."""
    grpo = objective(dynamic_sampling=True)
    coming = [DULL + DUD, group(4, 0, 1) + group(5, 1, 0)]
    found = grpo.roll_out(DULL + group(3, 1, 0), Alone(), lambda: coming.pop(0))
    assert [one.row for one in found.lessons] == [3, 3, 4, 4] and not coming
    high = 0.5 / (math.sqrt(0.5) + SMALL)
    assert [one.aside["advantage"] for one in found.lessons] == pytest.approx([high, -high, -high, high])
    assert found.metrics["dynamic_sampling/groups_drawn"] == (6.0, 1.0)
    assert found.metrics["dynamic_sampling/groups_kept"] == (2.0, 1.0)
    assert found.metrics["frac_reward_zero_std"] == (3.0, 6.0) and found.metrics["reward"] == (7.0, 12.0), "of all that was drawn"
    assert found.metrics["completions/mean_length"] == (24.0, 12.0)
    assert not capsys.readouterr().err


def test_a_step_whose_first_groups_all_tell_something_draws_once() -> None:
    found = objective(dynamic_sampling=True).roll_out(group(3, 1, 0) + group(4, 0, 1), Alone())
    assert [one.row for one in found.lessons] == [3, 3, 4, 4]


def test_a_bound_on_drawings_is_told_and_the_step_learns_from_what_there_is(capsys) -> None:
    grpo = objective(dynamic_sampling=True, dynamic_sampling_max_draws=3)
    coming = [DULL + group(5, 0, 1), DULL + DUD]
    found = grpo.roll_out(DULL + DUD + DUD, Alone(), lambda: coming.pop(0) + DUD)
    assert [one.row for one in found.lessons] == [5, 5] and not coming
    said = "after 3 drawings of 3 prompts the answers to 1 have rewards that differ; the step learns from those"
    assert said in capsys.readouterr().err
    grpo = objective(dynamic_sampling=True, dynamic_sampling_max_draws=3, scale_rewards="batch")
    found = grpo.roll_out(DULL, Alone(), lambda: DUD)
    assert [(one.row, one.aside["advantage"]) for one in found.lessons] == [(0, 0.0), (0, 0.0)]
    assert found.metrics["dynamic_sampling/groups_kept"] == (0.0, 1.0)
    assert "the answers to 0 have rewards that differ; the step learns from nothing" in capsys.readouterr().err


def test_a_group_of_which_nothing_counts_is_replaced_too() -> None:
    """Rewards differ, but both answers were cut off."""
    cut = [rollout([0, 1], "ab", row=3), rollout([1, 1], "ab", row=3)]
    grpo = objective(dynamic_sampling=True, mask_truncated_completions=True)
    assert [one.row for one in grpo.roll_out(cut, Alone(), lambda: group(4, 0, 1)).lessons] == [4, 4]


def test_the_deviation_of_the_batch_is_that_of_the_groups_that_are_kept() -> None:
    grpo = objective(dynamic_sampling=True, scale_rewards="batch")
    found = grpo.roll_out(DULL, Alone(), lambda: group(4, 0, 1))
    assert found.lessons[1].aside["advantage"] == pytest.approx(0.5 / (math.sqrt(0.5) + SMALL))


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_may_keep_none_of_its_answers(rank: int) -> None:
    """Each process holds one group of the two drawn at once; those of process 1 alone tell something, and one is wanted more."""
    dull, good = ("", [(1.0, True)] * 2), ("", [(1.0, True), (0.0, True)])
    mine = DULL if rank == 0 else group(3, 1, 0)
    grpo = objective(dynamic_sampling=True)
    found = grpo.roll_out(mine, OneOfTwo(rank, (dull, good)[1 - rank]), lambda: mine)
    assert [one.row for one in found.lessons] == [3, 3, 3, 3] * rank
    assert found.metrics["dynamic_sampling/groups_drawn"] == (4.0, 1.0)


def test_where_every_group_says_nothing_nothing_is_learned() -> None:
    """There is a count to divide by, and the loss is 0."""
    grpo = objective(filter_groups=True)
    batch = lay_out(grpo.roll_out(TWO_GROUPS[2:], Alone()).lessons)
    assert grpo.count(batch) == 4
    assert float(grpo.loss(Fixed(torch.full((1, 8), -1.0)), batch).total) == 0


def test_answers_that_were_cut_off_are_left_out() -> None:
    cut = [rollout([0, 1, 2, 3], "abcd"), rollout([1, 9], "abcd")]
    found = objective(mask_truncated_completions=True, scale_rewards="none").roll_out(cut, Alone())
    assert [one.aside["advantage"] for one in found.lessons] == [-0.5]
    assert found.metrics["completions/clipped_ratio"] == (1.0, 2.0)


def test_what_goes_wrong_on_another_process_is_raised_here() -> None:
    with pytest.raises(TrainingError, match="brevity failed"):
        objective().roll_out(TWO_GROUPS[:2], OneOfTwo(0, ("brevity failed", [])))


def test_a_reward_that_fails_here_is_told_to_the_others_first(tmp_path) -> None:
    (tmp_path / "r.py").write_text("def f(completions, **columns): raise KeyError('level')\n")
    grpo = objective(reward_funcs=(f"{tmp_path / 'r.py'}:f",))
    told: list[Any] = []

    class Listening(Alone):
        def gather(self, value: Any) -> list[Any]:
            told.append(value[0])
            return [value]

    with pytest.raises(TrainingError, match="failed on rows row 0, rows row 1: KeyError: 'level'"):
        grpo.roll_out(TWO_GROUPS, Listening())
    assert "KeyError" in told[0]
    grpo.close()


class Fixed(Routed):
    """A policy whose log-probs are given, its reference's too."""

    def __init__(self, logprobs_BT: torch.Tensor, reference_BT: torch.Tensor | None = None):
        self.logprobs_BT = logprobs_BT
        if reference_BT is not None:
            self.reference = Fixed(reference_BT)

    def token_logprobs(self, batch: Batch) -> torch.Tensor:
        return self.logprobs_BT


def lay_out(lessons: list[Lesson]) -> Batch:
    batch = pack([one.sequence for one in lessons], [one.row for one in lessons])

    def beside(name: str) -> torch.Tensor:
        values = [one.aside[name] for one in lessons]
        arrays = isinstance(values[0], np.ndarray)
        return torch.tensor(np.concatenate(values)).unsqueeze(0) if arrays else torch.tensor(values)

    return replace(batch, aside={name: beside(name) for name in lessons[0].aside})


# An answer of three tokens with advantage 2 and one of one token with advantage -1, after prompts of one token.
ONE = Lesson(0, rollout([1, 2, 9], "x", prompt=(5,)).sequence, {"advantage": 2.0, "learned": 1.0})
OTHER = Lesson(1, rollout([9], "x", prompt=(5,)).sequence, {"advantage": -1.0, "learned": 1.0})
OLD = np.log(np.array([0.5, 0.5, 0.5, 0.5], np.float32))
RATIOS = [1.1, 1.5, 0.5, 0.5]
LOSSES = [-2.2, -2.4, -1.0, 0.8]
"""-min(r A, clip(r, 0.8, 1.2) A): 1.1 x 2; 1.2 x 2; 0.5 x 2; and -1 x max(0.5, 0.8)."""


def reused(**settings) -> tuple[Grpo, Batch, Fixed]:
    """The two answers in a step after the first that learns from them, the policy moved by RATIOS."""
    grpo = objective(num_iterations=2, importance_sampling_correction=False, **settings)
    ones = [
        Lesson(one.row, one.sequence, {**one.aside, "old": np.concatenate([np.zeros(1, np.float32), old])})
        for one, old in ((ONE, OLD[:3]), (OTHER, OLD[3:]))
    ]
    new = torch.tensor([[0.0, *(OLD[:3] + np.log(RATIOS[:3])), 0.0, *(OLD[3:] + np.log(RATIOS[3:]))]], dtype=torch.float32)
    return grpo, lay_out(ones), Fixed(new)


@pytest.mark.parametrize(
    ("loss_type", "total", "count"),
    [
        ("dapo", sum(LOSSES), 4),
        ("grpo", sum(LOSSES[:3]) / 3 + LOSSES[3], 2),
        ("dr_grpo", sum(LOSSES) / SAMPLING.num_new, 2),
    ],
)
def test_the_loss_by_type(loss_type: str, total: float, count: int) -> None:
    grpo, batch, policy = reused(loss_type=loss_type)
    found = grpo.loss(policy, batch)
    assert float(found.total) == pytest.approx(total, rel=1e-5)
    assert grpo.count(batch) == count
    assert [float(number) for number in found.metrics["clip_ratio/region_mean"]] == [2.0, 4.0]
    assert float(found.metrics["clip_ratio/low_mean"][0]) == float(found.metrics["clip_ratio/high_mean"][0]) == 1.0


@pytest.mark.parametrize(("loss_type", "more"), [("dapo", 3 * 0.5 + 2.0), ("grpo", 0.5 + 2.0), ("dr_grpo", 0.5 + 2.0)])
def test_a_router_s_balance_is_a_mean_over_what_is_counted(loss_type: str, more: float) -> None:
    """Sequences of balance 0.5 (three tokens) and 2 (one): over tokens for dapo, over answers for the others."""
    grpo, batch, policy = reused(loss_type=loss_type)
    plain, policy.balanced = float(grpo.loss(policy, batch).total), (0.5, 2.0)
    assert float(grpo.loss(policy, batch).total) - plain == pytest.approx(more, rel=1e-5)


def test_clip_higher() -> None:
    grpo, batch, policy = reused(epsilon_high=0.4)
    assert float(grpo.loss(policy, batch).total) == pytest.approx(-2.2 - 2.8 - 1.0 + 0.8, rel=1e-5)


def test_the_ratio_of_a_whole_answer() -> None:
    """GSPO: the geometric mean of 1.1, 1.5, 0.5 for all three tokens."""
    grpo, batch, policy = reused(importance_sampling_level="sequence")
    mean = (1.1 * 1.5 * 0.5) ** (1 / 3)
    assert float(grpo.loss(policy, batch).total) == pytest.approx(3 * -2 * mean + 0.8, rel=1e-5)


def test_the_first_step_is_the_plain_policy_gradient() -> None:
    """Ratio 1: the loss is minus the advantages, its gradient in each token's log-prob minus its advantage."""
    grpo, batch = objective(importance_sampling_correction=False), lay_out([ONE, OTHER])
    logprobs = torch.full((1, 6), -0.7, requires_grad=True)
    found = grpo.loss(Fixed(logprobs), batch)
    assert float(found.total.detach()) == pytest.approx(-(3 * 2.0) + 1.0)
    found.total.backward()
    torch.testing.assert_close(logprobs.grad, torch.tensor([[0.0, -2.0, -2.0, -2.0, 0.0, 1.0]]), **EXACT)


def test_the_divergence_from_the_reference() -> None:
    """Reference twice as likely at each token: 2 - ln 2 - 1 each, times beta."""
    grpo, batch = objective(importance_sampling_correction=False, beta=0.1), lay_out([ONE, OTHER])
    policy = Fixed(torch.full((1, 6), -2.0), torch.full((1, 6), -2.0 + math.log(2)))
    found = grpo.loss(policy, batch)
    each = 1 - math.log(2)
    assert float(found.total) == pytest.approx(-6 + 1 + 0.1 * 4 * each, rel=1e-5)
    assert float(found.metrics["kl"][0] / found.metrics["kl"][1]) == pytest.approx(each, rel=1e-5)
    assert grpo.needs_reference and not objective().needs_reference


def test_the_divergence_can_be_weighed_by_the_ratio() -> None:
    """Half as likely as the reference everywhere, 2 - ln 2 - 1 each: the tokens' ratios weigh it, clipping does not."""
    grpo, batch, moved = reused(beta=0.1, use_bias_correction_kl=True)
    moved.reference = Fixed(moved.logprobs_BT + math.log(2))
    each = 1 - math.log(2)
    assert float(grpo.loss(moved, batch).total) == pytest.approx(sum(LOSSES) + 0.1 * sum(RATIOS) * each, rel=1e-5)


def test_what_was_drawn_from_another_distribution_is_weighed() -> None:
    """Each token was drawn with e^-1 and has e^-0.7 now: weights e^0.3, capped at 1.2 where the settings say so."""
    lessons = [
        Lesson(one.row, one.sequence, {**one.aside, "drawn": np.full(len(one.sequence), -1.0, np.float32)})
        for one in (ONE, OTHER)
    ]
    batch, policy = lay_out(lessons), Fixed(torch.full((1, 6), -0.7))
    assert float(objective().loss(policy, batch).total) == pytest.approx(-5 * math.exp(0.3), rel=1e-5)
    assert float(objective(importance_sampling_cap=1.2).loss(policy, batch).total) == pytest.approx(-5 * 1.2, rel=1e-5)


@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "dr_grpo"])
def test_the_loss_of_parts_sums_to_that_of_the_whole(loss_type: str) -> None:
    grpo = objective(importance_sampling_correction=False, loss_type=loss_type)
    whole, parts = lay_out([ONE, OTHER]), [lay_out([ONE]), lay_out([OTHER])]
    totals = [float(grpo.loss(Fixed(torch.full((1, n), -0.7)), batch).total) for n, batch in zip((4, 2), parts, strict=True)]
    assert sum(totals) == pytest.approx(float(grpo.loss(Fixed(torch.full((1, 6), -0.7)), whole).total), rel=1e-6)
    assert sum(map(grpo.count, parts)) == grpo.count(whole)
