"""Preference: learn which of two answers is the better one (DPO and its kin).

Does not know the model's architecture, how batches are laid out, or the loop; the formulas are in pair_losses.

Axes: S sequence, P pair (its chosen answer's sequence, then the rejected one's).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hone.chat.codec import Codec
from hone.chat.encoded import Example
from hone.config.needs import WITHOUT_REFERENCE
from hone.config.objective import Preference as PreferenceConfig
from hone.data.batch import Batch
from hone.data.sample import Pair
from hone.models.forward import evaluating
from hone.models.policy import Policy
from hone.objectives import pair_losses
from hone.objectives.answers import Answers, lengths, read, reference_sums, sums
from hone.objectives.base import Figures, Loss, Usual

_OF_MEANS = ("ipo", "orpo", "simpo")
"""Losses that compare means over tokens, not sums."""


class Preference(Usual):
    """The sum over pairs of `pref_loss`, with what is mixed in: plain learning (pref_ftx), a classifier (pref_bco_weight)."""

    sample = Pair
    unit = "pairs"
    fingerprint = "preference-1"

    def __init__(self, settings: PreferenceConfig):
        self._of = settings
        self.needs_reference = settings.pref_loss not in WITHOUT_REFERENCE
        told = ("rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "logps/chosen", "logps/rejected")
        self._learns_chosen = settings.pref_ftx > 0 or settings.pref_loss in ("orpo", "cpo")
        more = ("sft_loss",) * self._learns_chosen + ("odds_ratio_loss",) * (settings.pref_loss == "orpo")
        self.metrics = (*told, *more)
        self.of_step = ()
        if settings.pref_loss == "kto_pair" or settings.pref_bco_weight:
            self.of_step = ("ratio/chosen", "ratio/rejected")

    def encode(self, samples: list[Pair], codec: Codec) -> list[Example]:
        """One whole Example a pair: chosen, then rejected; its last answer is learned."""
        talks = [talk for sample in samples for talk in (sample.chosen, sample.rejected)]
        encoded = codec.encode(talks, learn="last")
        return [Example(sides) for sides in zip(encoded[::2], encoded[1::2], strict=True)]

    def count(self, batch: Batch) -> int:
        """The batch's pairs."""
        return len(batch.parts)

    def reference_sums(self, policy: Policy, batch: Batch) -> Tensor:
        """fp32 [S], no gradient: what the losses need of policy.reference, so that it may be computed before training."""
        return reference_sums(policy, batch, self._of.ld_alpha)

    def measure(self, policy: Policy, batch: Batch) -> Figures:
        """The mean log-ratio of each side over the step, without gradient: the divergences of kto_pair, the shift of bco."""
        reference_S = self.reference_sums(policy, batch)
        with torch.no_grad(), evaluating(policy):
            ratios_P2 = (sums(policy, batch, self._of.ld_alpha) - reference_S).view(-1, 2)
        return {name: (ratios_P2[:, side].sum(), len(ratios_P2)) for side, name in enumerate(self.of_step)}

    def loss(self, policy: Policy, batch: Batch) -> Loss:
        """The summed loss of the batch's pairs, and the mean router's balance loss of their two sequences."""
        reference_S = self.reference_sums(policy, batch) if self.needs_reference else None
        answers = read(policy, batch, self._of.ld_alpha)
        scores_P2 = self._scores(answers, reference_S, batch)
        means_P2 = answers.means_S.view(-1, 2)
        losses_P = self._losses(scores_P2, means_P2, batch.aside) - self._of.pref_ftx * means_P2[:, 0]
        total = losses_P.sum() + answers.balance_S.view(-1, 2).mean(-1).sum()
        return Loss(total, self._figures(scores_P2.detach(), answers.logprobs_S.detach().view(-1, 2), means_P2.detach()))

    def _scores(self, answers: Answers, reference_S: Tensor | None, batch: Batch) -> Tensor:
        """[P, 2]: what the loss compares of each answer; beta times it is the answer's reward."""
        if reference_S is None:
            return (answers.means_S if self._of.pref_loss in _OF_MEANS else answers.logprobs_S).view(-1, 2)
        ratios_S = answers.logprobs_S - reference_S.to(answers.logprobs_S.device)
        if self._of.pref_loss in _OF_MEANS:
            ratios_S = ratios_S / lengths(batch)
        return ratios_S.view(-1, 2)

    def _losses(self, scores_P2: Tensor, means_P2: Tensor, aside: Mapping[str, Tensor]) -> Tensor:
        """[P]: the loss of each pair."""
        losses_P = self._plain_losses(scores_P2, means_P2, aside)
        weight = self._of.pref_bco_weight
        if not weight:
            return losses_P
        beta, (chosen_P, rejected_P) = self._of.pref_beta, scores_P2.unbind(-1)
        shift = beta * (aside["ratio/chosen"] + aside["ratio/rejected"]) / 2
        return (losses_P + weight * pair_losses.bco(chosen_P, rejected_P, beta, shift)) / (1 + weight)

    def _plain_losses(self, scores_P2: Tensor, means_P2: Tensor, aside: Mapping[str, Tensor]) -> Tensor:
        asked, beta = self._of, self._of.pref_beta
        chosen_P, rejected_P = scores_P2.unbind(-1)
        margin_P = chosen_P - rejected_P
        match asked.pref_loss:
            case "sigmoid":
                return pair_losses.sigmoid(margin_P, beta, asked.dpo_label_smoothing)
            case "robust":
                return pair_losses.robust(margin_P, beta, asked.dpo_label_smoothing)
            case "hinge":
                return pair_losses.hinge(margin_P, beta)
            case "ipo":
                return pair_losses.ipo(margin_P, beta)
            case "kto_pair":
                divergences = (aside["ratio/chosen"].clamp(min=0), aside["ratio/rejected"].clamp(min=0))
                return pair_losses.kto_pair(chosen_P, rejected_P, beta, *divergences)
            case "orpo":
                return pair_losses.orpo(chosen_P, rejected_P, beta)
            case "simpo":
                return pair_losses.simpo(chosen_P, rejected_P, beta, asked.simpo_gamma)
            case "cpo":
                return pair_losses.cpo(chosen_P, rejected_P, beta, means_P2[:, 0])

    def _figures(self, scores_P2: Tensor, logprobs_P2: Tensor, means_P2: Tensor) -> Figures:
        rewards_P2, pairs = self._of.pref_beta * scores_P2, len(scores_P2)
        margin_P = rewards_P2[:, 0] - rewards_P2[:, 1]
        told = {
            "rewards/chosen": rewards_P2[:, 0],
            "rewards/rejected": rewards_P2[:, 1],
            "rewards/accuracies": (margin_P > 0).float(),
            "rewards/margins": margin_P,
            "logps/chosen": logprobs_P2[:, 0],
            "logps/rejected": logprobs_P2[:, 1],
        }
        if self._learns_chosen:
            told["sft_loss"] = -means_P2[:, 0]
        if self._of.pref_loss == "orpo":
            told["odds_ratio_loss"] = pair_losses.odds_ratio(*means_P2.unbind(-1))
        return {name: (numbers_P.sum(), pairs) for name, numbers_P in told.items()}
