"""Reward: learn to score answers, so that of two answers to one question the better one scores higher.

Does not know the model's architecture, how batches are laid out, or the loop.

Axes: B row, T token, S sequence, P pair.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn.functional import logsigmoid

from hone.chat.codec import Codec
from hone.chat.encoded import Example
from hone.config.objective import Reward as RewardConfig
from hone.data.batch import Batch
from hone.data.sample import Pair
from hone.models.policy import Policy
from hone.objectives.base import Loss, Usual


def pairwise(chosen_P: Tensor, rejected_P: Tensor) -> Tensor:
    """Minus the log-likelihood that the chosen answer wins, -log sigmoid(chosen - rejected); per pair, shape [P].

    The model of comparisons is Bradley and Terry's (1952); the loss is eq. 1 of Ouyang et al. 2022 (InstructGPT) for one pair.
    """
    return -logsigmoid(chosen_P - rejected_P)


class Reward(Usual):
    """A score is the value head's number at a conversation's last token; the loss is summed over pairs."""

    sample = Pair
    unit = "pairs"
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "margin", "rewards/chosen", "rewards/rejected")
    needs_value_head = True
    needs_logits = False
    fingerprint = "reward-1"

    def __init__(self, settings: RewardConfig):
        del settings  # it has no numbers of its own

    def encode(self, samples: list[Pair], codec: Codec) -> list[Example]:
        """One Example a pair: the chosen conversation, then the rejected one."""
        talks = [talk for sample in samples for talk in (sample.chosen, sample.rejected)]
        encoded = codec.encode(talks, learn="last")
        return [Example(sides) for sides in zip(encoded[::2], encoded[1::2], strict=True)]

    def count(self, batch: Batch) -> int:
        """The batch's pairs."""
        return len(batch.parts)

    def loss(self, policy: Policy, batch: Batch) -> Loss:
        """The summed pairwise loss. accuracy: share of pairs in the right order; margin: how far the chosen answer is above."""
        scores_S = policy.scores(batch, batch.ends_BT)
        chosen_P, rejected_P = scores_S[::2], scores_S[1::2]
        pairs, margin_P = self.count(batch), (chosen_P - rejected_P).detach()
        return Loss(
            pairwise(chosen_P, rejected_P).sum(),
            {
                "accuracy": ((margin_P > 0).float().sum(), pairs),
                "margin": (margin_P.sum(), pairs),
                "rewards/chosen": (chosen_P.detach().sum(), pairs),
                "rewards/rejected": (rejected_P.detach().sum(), pairs),
            },
        )
