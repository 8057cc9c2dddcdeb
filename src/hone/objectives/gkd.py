"""GKD: learn a teacher's distribution at each token of one's own answers, and of the rows' answers in the share of prompts left.

Does not know where the teacher came from (the policy's reference is it), how answers are drawn or batches laid out. Agarwal et
al. 2023, "On-Policy Distillation of Language Models", algorithm 1.

Axes: B row, T token, N trained token, n trained token of a chunk, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hone.chat.codec import Codec
from hone.chat.encoded import IGNORE, Example
from hone.config.objectives.taught import Gkd as GkdConfig
from hone.data.batch import Batch
from hone.data.sample import Dialog, Task
from hone.inference.rollout import Sampling
from hone.models.policy import Policy
from hone.objectives.base import Loss, Usual
from hone.objectives.distill import divergence, logit_chunks
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
from hone.objectives.token_loss import label_logprob, token_loss


class Gkd(OnPolicy, Usual):
    """T^2 D(teacher / T, student / T) of each token of an answer, as in Distill; no gradient goes through the drawing.

    Rows bring their own last answer, unless every prompt is answered by the student: then they need none.
    """

    unit = "prompts"
    best_by = "eval_distill_loss"
    metrics = ("distill_loss", *ANSWER_FIGURES)
    needs_reference = True
    tempered = False
    judges_reckoned = True
    draws = reuses = 1

    def __init__(self, settings: GkdConfig):
        self._settings, self.share = settings, settings.gkd_lambda
        self.check_every, self.check_bound = settings.sync_check_steps, settings.sync_check_bound
        self.logit_chunks = logit_chunks(settings)
        self.has_labels = self.share < 1
        self.sample: type[Dialog] | type[Task] = Dialog if self.has_labels else Task
        self.fingerprint = "gkd-1:" + ("last" if self.has_labels else "prompt")

    def encode(self, samples: list[Dialog] | list[Task], codec: Codec) -> list[Example]:
        """Each conversation with its last answer learned, or its prompt alone."""
        talks = [sample.conversation for sample in samples]
        if self.has_labels:
            return [Example((sequence,)) for sequence in codec.encode(talks, learn="last")]
        return [Example((codec.encode_prompt(talk),)) for talk in talks]

    def start(self, codec: Codec, sampling: Sampling) -> None:
        """Nothing to load."""
        self._drawn_at = sampling.temperature

    def close(self) -> None:
        """Nothing to let go of."""

    def reckon(self, policy: Policy, batch: Batch) -> dict[str, Tensor]:
        """Log-probs as they were drawn, and how far the student is from its teacher."""
        labels_N, teacher = batch.labels_BT[batch.labels_BT != IGNORE], policy.reference.label_logits(batch)

        def numbers(logits_nV: Tensor, part: slice) -> Tensor:
            old_n = label_logprob(logits_nV / self._drawn_at, labels_N[part])
            return torch.stack([old_n, divergence(teacher(part), logits_nV, self._settings)])

        return dict(zip(("old", "distill_loss"), policy.measured(batch, numbers), strict=True))

    def roll_out(self, rollouts: Sequence[Rollout], processes: Processes, further: Further = nothing_further) -> Lessons:
        """Each answer as it was drawn."""
        del processes, further
        return Lessons([Lesson(one.row, one.sequence, {"on_policy": 1.0}) for one in rollouts], of_answers(rollouts))

    def lesson(self, row: int, example: Example) -> Lesson:
        """The row's own answer."""
        return Lesson(row, example.sequences[0], {"on_policy": 0.0})

    def judge(self, rollouts: Sequence[Rollout]) -> Figures:
        """The mean divergence of a drawn token, and the answers' length and entropy."""
        apart = [one.reckoned["distill_loss"] for one in rollouts]
        return {"distill_loss": (float(sum(map(sum, apart))), float(sum(map(len, apart))))} | of_answers(rollouts)

    def count(self, batch: Batch) -> int:
        """The batch's trained tokens."""
        return batch.num_trained

    def loss(self, policy: Policy, batch: Batch) -> Loss:
        """The sum over the trained tokens; how far apart the two are is told of all, and of one's own answers."""
        teacher, scale = policy.reference.label_logits(batch), self._settings.distill_temperature**2
        own_N = batch.aside["on_policy"][batch.sequences_BT[batch.labels_BT != IGNORE]]

        def numbers(logits_nV: Tensor, labels_n: Tensor, part: slice) -> tuple[Tensor, ...]:
            del labels_n
            apart_n = divergence(teacher(part), logits_nV, self._settings)
            return scale * apart_n, apart_n, own_N[part] * apart_n

        found = token_loss(policy, batch, numbers, ("distill_loss", "distill_loss/on_policy"), plainly=False)
        own, _ = found.metrics["distill_loss/on_policy"]
        return Loss(found.total, {**found.metrics, "distill_loss/on_policy": (own, own_N.sum())})
