"""RolloutFeed: the micro-batches of each optimizer step drawn from the policy as it is then, in place of Feed.

Does not know what is learned of an answer (the objective does) nor how a token is drawn (the sampler does).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hone import log
from hone.chat.encoded import IGNORE, Encoded, Example
from hone.data.batch import Batch, pack, pad
from hone.data.build import TokenSet
from hone.data.order import Steps
from hone.errors import TrainingError
from hone.inference.rollout import Prompt, Sampler, Sampling, seed_of
from hone.models.policy import Policy
from hone.models.reference import evaluating
from hone.objectives.onpolicy import Figures, Lesson, OnPolicy, Rollout
from hone.training.device import Device
from hone.training.feed import MicroBatch
from hone.training.processes.pulse import PULSE

Slot = tuple[int, int]
"""A row of the data and the number of the answer to it."""


@dataclass(frozen=True)
class Drawer:
    """Draws answers to rows, and reckons the log-probs of what was drawn as the trainer does.

    micro: sequences of a forward pass. packed, pad_id: as of every batch.
    """

    objective: OnPolicy
    policy: Policy
    device: Device
    sampler: Sampler
    sampling: Sampling
    name_rows: Callable[[list[int]], str]
    micro: int
    pad_id: int

    def draw(self, tokens: TokenSet, slots: Sequence[Slot], *, seed: tuple[int, ...]) -> list[Rollout]:
        """An answer a slot, to what stands before the row's own. seed: with the slot's numbers it makes the draw's seed."""
        self.sampler.refresh()
        examples = [tokens[row] for row, _ in slots]
        prompts = [Prompt(_question(one), seed_of(*seed, *slot)) for one, slot in zip(examples, slots, strict=True)]
        with self.device.autocast():
            drawn = self.sampler.draw(prompts, self.sampling)
        return [
            Rollout(row, self.name_rows([row]), prompt.ids, one.note, answer)
            for (row, _), one, prompt, answer in zip(slots, examples, prompts, drawn, strict=True)
        ]

    def reckon(self, rollouts: Sequence[Rollout]) -> list[Rollout]:
        """The rollouts with what the objective reckons of their drawn tokens, without dropout or gradient."""
        found: list[Rollout] = []
        with torch.no_grad(), evaluating(self.policy):
            for start in range(0, len(rollouts), self.micro):
                part = rollouts[start : start + self.micro]
                batch = self.lay_out([Lesson(one.row, one.sequence, {}) for one in part])
                figures = self.objective.reckon(self.policy, batch.to(self.device.device))
                drawn_BT, lengths = batch.labels_BT != IGNORE, [len(one.drawn.ids) for one in part]
                split = {name: figures_BT.cpu()[drawn_BT].split(lengths) for name, figures_BT in figures.items()}
                found += [
                    replace(one, reckoned={name: parts[number].numpy() for name, parts in split.items()})
                    for number, one in enumerate(part)
                ]
        return found

    def lay_out(self, lessons: Sequence[Lesson]) -> Batch:
        """The lessons as one batch, with what stands beside their sequences."""
        sequences, rows = [one.sequence for one in lessons], [one.row for one in lessons]
        aside = {name: [one.aside[name] for one in lessons] for name in lessons[0].aside}
        return pack(sequences, rows, aside) if self.policy.can_pack else pad(sequences, self.pad_id, rows, aside)

    def check(self, rollouts: Sequence[Rollout]) -> float:
        """The mean absolute difference of sampler's and trainer's log-probs, over all processes.

        Raises TrainingError where it is beyond the bound: the sampler does not run the present policy.
        """
        pairs = [(one.drawn.logprobs, one.reckoned["old"]) for one in rollouts]
        mine = [float(sum(np.abs(theirs - own).sum() for theirs, own in pairs)), float(sum(len(own) for _, own in pairs))]
        total, number = self.device.total(mine)
        difference = total / number
        if not difference <= self.objective.check_bound:
            raise TrainingError(
                "the engine that draws answers does not run the policy that is trained: the log-probs of the tokens it drew "
                f"differ by {difference:.3g} on average (sync_check_bound: {self.objective.check_bound:g}). Look for weights "
                "that were not taken over or for another precision; raise the bound only if that is what you want"
            )
        return difference


class RolloutFeed:
    """`feed.steps(k, n)` yields the micro-batches of steps k to n - 1; each is drawn when it is asked for, after the step before.

    Everything follows from the policy, the seed and the step's number; answers that are still to be used again are its state, and
    the place in the stream of prompts, a drawing's worth at a time, where a step may take more than one.
    """

    def __init__(self, drawer: Drawer, tokens: TokenSet, steps: Steps, *, seed: int):
        self.drawer, self._tokens, self._steps, self._seed = drawer, tokens, steps, seed
        self._lessons: list[Lesson] = []
        self._spare: Lesson | None = None
        self._metrics: Figures = {}
        self._checked_at = -1
        self._place = 0

    def steps(self, first: int, end: int) -> Iterator[list[MicroBatch]]:
        """The micro-batches of each step from `first` up to `end`."""
        reuses = self.drawer.objective.reuses
        for number in range(first, end):
            PULSE.beat("drawing answers", limited=False)
            if number % reuses == 0:
                self._roll_out(number // reuses, number)
            yield self._batches(self._of_step(number))

    def state(self, step: int) -> dict[str, Any]:
        """What a checkpoint after `step` steps must hold of all processes: {} where that is nothing. All call it.

        Answers that are still to be learned from, where the next step draws none anew, the place in the stream of prompts where
        it does not follow from the step, and what the objective carries on.
        """
        own = self.drawer.objective.state()
        carried = {"objective": own} if own else {}
        if self.drawer.objective.most_draws > 1:
            carried["place"] = self._place
        if step % self.drawer.objective.reuses == 0:
            return carried
        shares = self.drawer.device.gather_data(([_packed_up(one) for one in self._lessons], self._metrics))
        lessons = shares[0][0] if self._holds_all else [one for share, _ in shares for one in share]
        metrics = {name: [sum(own[name][at] for _, own in shares) for at in (0, 1)] for name in self._metrics}
        return carried | {"lessons": lessons, "metrics": metrics}

    def restore(self, state: dict[str, Any]) -> None:
        """Put back what `state` gave, on any number of processes."""
        self.drawer.objective.load_state(state.get("objective", {}))
        self._place = state.get("place", 0)
        if "lessons" in state:
            self._lessons = [_unpacked(one) for one in (state["lessons"] if self._holds_all else self._mine(state["lessons"]))]
            self._spare = _unpacked(state["lessons"][0])
            self._metrics = {name: (pair[0], pair[1]) for name, pair in state["metrics"].items()}

    def close(self) -> None:
        """Let go of what the objective took to judge by, and of what draws."""
        self.drawer.objective.close()
        self.drawer.sampler.close()

    @property
    def _holds_all(self) -> bool:
        """Whether a process holds the lessons of all: of minibatches any process may have to take any answer."""
        return self.drawer.objective.minibatches > 1

    def _of_step(self, number: int) -> list[Lesson]:
        """This process's lessons of a step: all of the last drawing, or those of its minibatch."""
        if not self._holds_all:
            return self._lessons
        objective, everything = self.drawer.objective, len(self._lessons)
        generation, left = divmod(number, objective.reuses)
        use, part = divmod(left, objective.minibatches)
        order = np.random.default_rng([self._seed, generation, use]).permutation(everything).tolist()
        taken = order[everything * part // objective.minibatches : everything * (part + 1) // objective.minibatches]
        return [self._lessons[index] for index in self._mine(taken)]

    def _mine(self, everything: list[Any]) -> list[Any]:
        """This process's share: neighbours stay together."""
        device, number = self.drawer.device, len(everything)
        return everything[number * device.data_rank // device.data_world : number * (device.data_rank + 1) // device.data_world]

    def _roll_out(self, generation: int, step: int) -> None:
        drawer, objective = self.drawer, self.drawer.objective
        if objective.most_draws == 1:
            self._place = generation
        rollouts, given = self._draw(step)
        found = objective.roll_out(rollouts, drawer.device, lambda: self._draw(step)[0])
        self._lessons, self._metrics = [*given, *found.lessons], found.metrics
        if self._holds_all or objective.most_draws > 1:
            everything = [one for share in drawer.device.gather_data(self._lessons) for one in share]
            self._lessons, self._spare = everything if self._holds_all else self._mine(everything), everything[0]
        else:
            self._spare = self._lessons[-1]

    def _draw(self, step: int) -> tuple[list[Rollout], list[Lesson]]:
        """This process's share of the answers to the next prompts, and what is learned of those that are not answered."""
        drawer, objective, place = self.drawer, self.drawer.objective, self._place
        self._place += 1
        epoch, index = divmod(place, self._steps.num_steps_per_epoch)
        rows = [row for batch in self._steps.step(epoch, index)[0] for row in batch]
        asked = {row for row in rows if self._is_asked(place, row)}
        slots = self._mine([(row, number) for row in rows for number in range(objective.draws)])
        rollouts = drawer.draw(self._tokens, [slot for slot in slots if slot[0] in asked], seed=(self._seed, place))
        checks = bool(asked) and self._is_due(step)
        if checks or objective.reckons:
            rollouts = drawer.reckon(rollouts)
            if checks:
                self._check(rollouts, step)
        return rollouts, [objective.lesson(row, self._tokens[row]) for row, _ in slots if row not in asked]

    def _is_asked(self, place: int, row: int) -> bool:
        """Whether the policy answers the prompt of a row, by run, drawing and row alone."""
        objective = self.drawer.objective
        if objective.share == 1:
            return True
        return np.random.default_rng(seed_of(self._seed, place, row, objective.draws)).random() < objective.share

    def _is_due(self, step: int) -> bool:
        every = self.drawer.objective.check_every
        return self._checked_at < 0 or (every > 0 and step - self._checked_at >= every)

    def _check(self, rollouts: list[Rollout], step: int) -> None:
        difference = self.drawer.check(rollouts)
        if self._checked_at < 0:
            log.info(f"the engine that draws runs the policy: log-probs differ by {difference:.2g} on average")
        self._checked_at = step

    def _batches(self, lessons: list[Lesson]) -> list[MicroBatch]:
        """The lessons as this process's micro-batches; as many as on every other process."""
        drawer = self.drawer
        starts = range(0, len(lessons), drawer.micro)
        batches = [MicroBatch(drawer.lay_out(lessons[start : start + drawer.micro]), True) for start in starts]
        most = max(drawer.device.gather(len(batches)))
        assert self._spare is not None, "answers were drawn, or put back"
        batches += [MicroBatch(drawer.lay_out([self._spare]), False)] * (most - len(batches))
        return [replace(batches[0], metrics=self._metrics), *batches[1:]]


def _question(example: Example) -> np.ndarray:
    """The ids before the first that is learned; all of them where nothing is."""
    (sequence,) = example.sequences
    learned = np.flatnonzero(sequence.labels != IGNORE)
    return sequence.ids[: learned[0]] if len(learned) else sequence.ids


def _packed_up(lesson: Lesson) -> dict[str, Any]:
    """A lesson in types that torch.load(weights_only=True) reads."""
    aside = {name: torch.from_numpy(one) if isinstance(one, np.ndarray) else one for name, one in lesson.aside.items()}
    ids, labels = (torch.from_numpy(one) for one in (lesson.sequence.ids, lesson.sequence.labels))
    return {"row": lesson.row, "ids": ids, "labels": labels, "aside": aside}


def _unpacked(stored: dict[str, Any]) -> Lesson:
    aside = {name: one.numpy() if isinstance(one, Tensor) else one for name, one in stored["aside"].items()}
    return Lesson(stored["row"], Encoded(stored["ids"].numpy(), stored["labels"].numpy()), aside)


def evaluate_answers(drawer: Drawer, sets: dict[str, TokenSet], *, seed: int) -> dict[str, float]:
    """The mean figures of one answer to each row of sets that are not learned from, over all processes; run time and rate.

    sets: as of `evaluate`. The draws are the same each time, so that two evaluations differ by the policy alone.
    """
    started, metrics, all_sums = time.monotonic(), {}, {}
    for name, tokens in sets.items():
        device = drawer.device
        mine = [(row, 0) for row in range(device.data_rank, len(tokens), device.data_world)]
        rollouts = drawer.draw(tokens, mine, seed=(seed,))
        sums = drawer.objective.judge(drawer.reckon(rollouts) if drawer.objective.judges_reckoned else rollouts)
        totals = device.total([number for key in sorted(sums) for number in sums[key]])
        for index, key in enumerate(sorted(sums)):
            total, count = totals[2 * index : 2 * index + 2]
            before = all_sums.get(key, (0.0, 0.0))
            all_sums[key] = (before[0] + total, before[1] + count)
            if name:
                metrics[f"eval_{name}_{key}"] = total / count
    metrics |= {f"eval_{key}": total / count for key, (total, count) in all_sums.items()}
    seconds = time.monotonic() - started
    samples = sum(map(len, sets.values()))
    return metrics | {"eval_runtime": round(seconds, 4), "eval_samples_per_second": round(samples / seconds, 3)}


def answer_metric_names(objective: OnPolicy, sets: dict[str, TokenSet]) -> list[str]:
    """The names `evaluate_answers` gives its figures for these sets."""
    names = [f"eval_{name}_{figure}" for name in sets if name for figure in objective.metrics]
    return [*(f"eval_{figure}" for figure in objective.metrics), *names, "eval_runtime", "eval_samples_per_second"]
