"""Distillation: learn a teacher's distribution at each trained token of conversations, mixed with the tokens themselves.

Does not know where the teacher came from (the policy's reference is it), how batches are laid out, or who wrote the answers.

Axes: n trained token of a chunk, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from hone.config.objective import Distill as DistillConfig
from hone.config.objectives.taught import Taught
from hone.data.batch import Batch
from hone.models.policy import Policy
from hone.objectives.base import Loss
from hone.objectives.dialogs import Dialogs
from hone.objectives.divergence import forward_kl, generalised_js, likeliest, over_shared, reverse_kl
from hone.objectives.token_loss import Numbers, label_logprob, token_loss


class Distill(Dialogs):
    """(1 - w) T^2 D(teacher / T, student / T) + w cross-entropy, of each trained token: Hinton et al. 2015, section 2.

    D by `distill_loss`, T the temperature, w `distill_ce_weight`. T^2 keeps the size of D's gradient as T grows.
    """

    metrics = ("nll_loss", "distill_loss")
    needs_reference = True

    def __init__(self, settings: DistillConfig):
        super().__init__(settings)
        self.settings = settings
        self.logit_chunks = logit_chunks(settings)

    def loss(self, policy: Policy, batch: Batch) -> Loss:
        """The sum of the trained tokens' losses, in training and evaluation alike; any batch with labels will do."""
        numbers = taught(policy.reference.label_logits(batch), self.settings)
        return token_loss(policy, batch, numbers, self.metrics, plainly=False)


def taught(teacher: Callable[[slice], Tensor], settings: DistillConfig) -> Numbers:
    """Of a chunk of trained tokens: the loss, the cross-entropy, the divergence (without T^2). teacher: its logits of a slice."""
    weight, temperature = settings.distill_ce_weight, settings.distill_temperature

    def numbers(logits_nV: Tensor, labels_n: Tensor, part: slice) -> tuple[Tensor, ...]:
        apart_n = divergence(teacher(part), logits_nV, settings)
        nll_n = -label_logprob(logits_nV, labels_n)
        return (1 - weight) * temperature**2 * apart_n + weight * nll_n, nll_n, apart_n

    return numbers


def logit_chunks(settings: Taught) -> int:
    """Chunks of logits that a divergence holds at once, measured as peak memory (bench/distribution.py)."""
    return 11 if settings.distill_loss == "js" else 8


def divergence(teacher_nV: Tensor, student_nV: Tensor, settings: Taught) -> Tensor:
    """fp32 [n], between the logits of both."""
    teacher_nV, student_nV = over_shared(teacher_nV, student_nV, settings.distill_temperature)
    if settings.distill_top_k:
        teacher_nV, student_nV = likeliest(teacher_nV, student_nV, settings.distill_top_k)
    if settings.distill_loss == "js":
        return generalised_js(teacher_nV, student_nV, settings.distill_beta)
    return (forward_kl if settings.distill_loss == "forward_kl" else reverse_kl)(teacher_nV, student_nV)
