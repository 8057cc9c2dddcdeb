"""KTO: learn from answers of which somebody said whether they are good, one by one.

Does not know the model's architecture, how batches are laid out, or the loop.

Axes: T token, E example (an answer to its own question, then its mismatch: another row's answer to that question).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from hone.chat.codec import Codec
from hone.chat.encoded import IGNORE, Encoded, Example
from hone.config.objective import Kto as KtoConfig
from hone.data.batch import Batch
from hone.data.build import TokenSet
from hone.data.sample import Rated
from hone.errors import DataError
from hone.models.forward import evaluating
from hone.models.policy import Policy
from hone.objectives.answers import read, reference_sums, sums
from hone.objectives.base import Figures, Loss, Usual


def kto(ratio_E: Tensor, good_E: Tensor, beta: float, divergence: Tensor) -> Tensor:
    """1 - sigmoid(beta * (ratio - divergence)) of a good answer, 1 - sigmoid(beta * (divergence - ratio)) of a bad one.

    Ethayarajh et al. 2024, eq. 7, before its weights. ratio_E: the answer's log-ratio to the reference, summed over its tokens;
    good_E: 1 or 0; divergence: how far the policy is from its reference, at least 0, taken as a constant.
    """
    return 1 - torch.sigmoid(beta * (2 * good_E - 1) * (ratio_E - divergence))


class Kto(Usual):
    """The sum over answers of `kto` by kto_chosen_weight or kto_rejected_weight.

    The divergence is the mean log-ratio of the mismatches of a whole step. Every answer's mismatch is drawn once for its set, so
    that neither the micro-batch, the layout nor the number of processes changes a step's loss.
    """

    sample = Rated
    unit = "answers"
    fingerprint = "kto-1"
    of_step = ("kl", "good")
    needs_reference = True

    def __init__(self, settings: KtoConfig):
        self._of = settings
        told = ("rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen", "logps/rejected", "kl")
        self.metrics = (*told, "sft_loss") if settings.pref_ftx else told

    def encode(self, samples: list[Rated], codec: Codec) -> list[Example]:
        """One whole Example an answer, its last answer learned; 1 where it is good."""
        encoded = codec.encode([sample.conversation for sample in samples], learn="last")
        return [Example((one,), float(sample.good)) for one, sample in zip(encoded, samples, strict=True)]

    def problem_of(self, tokens: TokenSet) -> str:
        """Answers of one kind alone teach the model to say more or less of everything."""
        good = int(tokens.values.sum())
        if 0 < good < len(tokens):
            return ""
        kind, other = ("good", "bad") if good else ("bad", "good")
        return (
            f"all {len(tokens):,} answers are {kind}: KTO learns from how they differ from {other} ones; add such rows, or "
            f"write {'stage: sft' if good else 'stage: dpo, with a better answer to each question'}"
        )

    def complete(self, tokens: TokenSet, codec: Codec, *, seed: int, longest: int) -> TokenSet:
        """Each answer with its mismatch: a ring through all rows in an order drawn by `seed`, cut to `longest` tokens."""
        del codec
        if len(tokens) < 2:
            raise DataError("KTO compares each answer with another row's, and the set has one row; add rows")
        ring = np.random.default_rng(seed).permutation(len(tokens))
        partners = np.empty_like(ring)
        partners[ring] = np.roll(ring, -1)

        def join(own: Example, other: Example) -> Example:
            return replace(own, sequences=(*own.sequences, mismatch(own.sequences[0], other.sequences[0], longest)))

        questions = tokens.lengths - tokens.trained  # what follows the answer is told as question: never too little
        answers = np.minimum(tokens.trained[partners], np.maximum(1, longest - questions))
        return tokens.joined(partners, join, tokens.lengths + questions + answers)

    def learned(self, batch: Batch) -> Batch:
        """The answers to their own questions; of the mismatches none has a gradient."""
        return batch.side(0)

    def count(self, batch: Batch) -> int:
        """The batch's answers."""
        return len(batch.parts)

    def reference_sums(self, policy: Policy, batch: Batch) -> Tensor:
        """fp32 [S], no gradient: what the loss needs of policy.reference, so that it may be computed before training."""
        return reference_sums(policy, batch)

    def measure(self, policy: Policy, batch: Batch) -> Figures:
        """kl: the mean log-ratio of the mismatches, without gradient. good: the share of good answers."""
        mismatches, good_E = batch.side(1), batch.values_E
        assert good_E is not None, "answers without a rating"
        reference_E = reference_sums(policy, mismatches)
        with torch.no_grad(), evaluating(policy):
            ratio_E = sums(policy, mismatches) - reference_E
        return {"kl": (ratio_E.sum(), len(good_E)), "good": (good_E.sum(), len(good_E))}

    def loss(self, policy: Policy, batch: Batch) -> Loss:
        """The summed loss of the batch's answers, with the router's balance loss of each."""
        own, good_E, beta = self.learned(batch), batch.values_E, self._of.pref_beta
        assert good_E is not None, "answers without a rating"
        reference_E = reference_sums(policy, own)
        answers = read(policy, own)
        ratio_E, divergence = answers.logprobs_S - reference_E, batch.aside["kl"].clamp(min=0)
        weight_E = torch.where(good_E > 0, self._of.kto_chosen_weight, self._of.kto_rejected_weight)
        losses_E = weight_E * kto(ratio_E, good_E, beta, divergence) + answers.balance_S
        if self._of.pref_ftx:  # the step's mean over good answers, which is divided by all of them
            losses_E = losses_E - self._of.pref_ftx * good_E * answers.means_S / batch.aside["good"].clamp(min=1e-9)
        figures = self._figures(beta * ratio_E.detach(), answers.logprobs_S.detach(), good_E, batch.aside["good"])
        figures["kl"] = (divergence * len(good_E), len(good_E))
        if self._of.pref_ftx:
            figures["sft_loss"] = (-(good_E * answers.means_S.detach()).sum(), good_E.sum())
        return Loss(losses_E.sum(), figures)

    def _figures(self, reward_E: Tensor, logprob_E: Tensor, good_E: Tensor, share: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Means over the answers of each kind; the margin is that of the step's two means, as every answer's share in it."""
        bad_E, told = 1 - good_E, {}
        for name, number_E in (("rewards", reward_E), ("logps", logprob_E)):
            told[f"{name}/chosen"] = ((number_E * good_E).sum(), good_E.sum())
            told[f"{name}/rejected"] = ((number_E * bad_E).sum(), bad_E.sum())
        both = ((share > 0) & (share < 1)).float()
        share = share.clamp(1e-9, 1 - 1e-7)
        margin = (reward_E * good_E).sum() / share - (reward_E * bad_E).sum() / (1 - share)
        told["rewards/margins"] = (both * margin, both * len(good_E))
        return told


def mismatch(own: Encoded, other: Encoded, longest: int) -> Encoded:
    """The question of `own` with the answer of `other`, whose end is cut where both are more than `longest` tokens."""
    question = own.ids[: int(np.argmax(own.labels != IGNORE))]
    answer = other.ids[other.labels != IGNORE][: max(1, longest - len(question))]
    labels = np.concatenate([np.full(len(question), IGNORE, np.int32), answer])
    return Encoded(np.concatenate([question, answer]), labels)
