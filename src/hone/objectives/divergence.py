"""Divergences between a teacher's and a student's distribution of the next token, position by position.

Pure formulas; does not know models, batches or which model teaches.

Axes: N position, V vocabulary, K the teacher's likeliest tokens and one bucket of the rest.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def forward_kl(teacher_NV: Tensor, student_NV: Tensor) -> Tensor:
    """KL(teacher || student) = sum of p (log p - log q), fp32 [N]; the student is to cover all that the teacher does.

    Hinton et al. 2015, section 2, but for the teacher's own entropy, which has no gradient.
    """
    return (teacher_NV.exp() * (teacher_NV - student_NV)).sum(-1)


def reverse_kl(teacher_NV: Tensor, student_NV: Tensor) -> Tensor:
    """KL(student || teacher) = sum of q (log q - log p), fp32 [N]; the student is to do nothing that the teacher would not.

    Gu et al. 2023 (MiniLLM), eq. 1, for one position.
    """
    return (student_NV.exp() * (student_NV - teacher_NV)).sum(-1)


def generalised_js(teacher_NV: Tensor, student_NV: Tensor, beta: float) -> Tensor:
    """beta KL(teacher || m) + (1 - beta) KL(student || m) with m = beta teacher + (1 - beta) student, fp32 [N].

    Agarwal et al. 2023 (GKD), section 2. 0 < beta < 1: divided by beta it nears the forward KL for a small beta, and divided by
    1 - beta the reverse KL for one near 1; bounded, unlike both.
    """
    middle_NV = torch.logaddexp(teacher_NV + math.log(beta), student_NV + math.log1p(-beta))
    return beta * forward_kl(teacher_NV, middle_NV) + (1 - beta) * forward_kl(student_NV, middle_NV)


def over_shared(teacher_NV: Tensor, student_NV: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Log-probs of both logits / temperature over the ids that both have: heads of one family are padded to different widths."""
    shared = min(teacher_NV.shape[-1], student_NV.shape[-1])
    return tuple(torch.log_softmax(logits_NV[:, :shared] / temperature, -1) for logits_NV in (teacher_NV, student_NV))


def likeliest(teacher_NV: Tensor, student_NV: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """Both log-probs over the teacher's `num` likeliest tokens and a bucket of all the others, [N, K] with K = num + 1.

    The bucket keeps both a distribution: its probability is what the others have together. Divided among the likeliest instead,
    as if the others were impossible, the student would learn to be surer than its teacher. Any divergence of what is lumped
    together is at most that of the whole (data processing inequality), and 0 where both agree on all of it.
    """
    if num >= teacher_NV.shape[-1]:
        return teacher_NV, student_NV
    chosen_NK = teacher_NV.topk(num, dim=-1).indices
    return _with_rest(teacher_NV, chosen_NK), _with_rest(student_NV, chosen_NK)


def _with_rest(logprobs_NV: Tensor, chosen_NK: Tensor) -> Tensor:
    rest_N1 = logprobs_NV.scatter(-1, chosen_NK, float("-inf")).logsumexp(-1, keepdim=True)
    return torch.cat([logprobs_NV.gather(-1, chosen_NK), rest_N1], dim=-1)
