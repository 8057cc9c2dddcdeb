"""Causal attention of sequences end to end in a row, in fp32 out of batched products: for CPUs whose kernel in bf16 is slow.

Does not know which CPUs those are.

Axes: B row (one), H head, K head of keys and values, T token, D width; m queries of the heads that share keys, k those keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

QUERIES = 96
"""Of a head at a time: they see the keys up to the last of them, so that about half of the scores are formed."""
LOG2_E = 1.4426950408889634
"""Scores are powers of two: torch's exp takes thrice as long as its exp2."""


def attend(query_BHTD: Tensor, key_BKTD: Tensor, value_BKTD: Tensor, lengths: Sequence[int], scale: float) -> Tensor:
    """[B, T, H, D] in the inputs' type, nearer to the exact one than in it; the inputs and a number a score's row are kept."""
    with torch.autocast("cpu", enabled=False):
        return _Causal.apply(query_BHTD, key_BKTD, value_BKTD, tuple(lengths), scale)


class _Causal(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query_BHTD: Tensor, key_BKTD: Tensor, value_BKTD: Tensor, lengths: tuple[int, ...], scale: float
    ) -> Tensor:
        query_HTD = query_BHTD[0].float() * (scale * LOG2_E)
        key_KTD, value_KTD = key_BKTD[0].float(), value_BKTD[0].float()
        shape = (1, query_BHTD.shape[2], query_BHTD.shape[1], value_BKTD.shape[3])
        output_BTHD, sums = query_BHTD.new_empty(shape), []
        for part, seen in _blocks(lengths):
            scores_Kmk = torch.bmm(_stacked(query_HTD[:, part], key_KTD), key_KTD[:, seen].mT)
            own_Hqq = _own(scores_Kmk, part)
            own_Hqq.add_(own_Hqq.new_full(own_Hqq.shape[1:], float("-inf")).triu_(1))
            top_Km1 = scores_Kmk.amax(-1, keepdim=True)
            total_Km1 = scores_Kmk.sub_(top_Km1).exp2_().sum(-1, keepdim=True)
            made_KmD = torch.bmm(scores_Kmk, value_KTD[:, seen]).div_(total_Km1)
            output_BTHD[0, part] = _apart(made_KmD, part).transpose(0, 1)
            sums.append(top_Km1.add_(total_Km1.log2_()))
        ctx.save_for_backward(query_BHTD, key_BKTD, value_BKTD, output_BTHD, *sums)
        ctx.lengths, ctx.scale = lengths, scale
        return output_BTHD

    @staticmethod
    @once_differentiable
    @torch.autocast("cpu", enabled=False)  # whoever asks for it within autocast
    def backward(ctx: Any, gradient_BTHD: Tensor) -> tuple[Tensor | None, ...]:
        query_BHTD, key_BKTD, value_BKTD, output_BTHD, *sums = ctx.saved_tensors
        inputs = (query_BHTD, key_BKTD, value_BKTD)
        query_HTD = query_BHTD[0].float() * (ctx.scale * LOG2_E)
        key_KTD, value_KTD, slope_THD = key_BKTD[0].float(), value_BKTD[0].float(), gradient_BTHD[0].float()
        mean_HT1 = (output_BTHD[0].float() * slope_THD).sum(-1, keepdim=True).transpose(0, 1)
        found = [torch.empty_like(one) for one in inputs]
        of_key_KTD, of_value_KTD = torch.zeros_like(key_KTD), torch.zeros_like(value_KTD)
        for (part, seen), sum_Km1 in zip(_blocks(ctx.lengths), sums, strict=True):
            query_KmD, keys_KkD = _stacked(query_HTD[:, part], key_KTD), key_KTD[:, seen]
            slope_KmD = _stacked(slope_THD[part].transpose(0, 1), key_KTD)
            share_Kmk = torch.bmm(query_KmD, keys_KkD.mT).sub_(sum_Km1).exp2_()
            _own(share_Kmk, part).tril_()
            of_value_KTD[:, seen].baddbmm_(share_Kmk.mT, slope_KmD)
            of_scores_Kmk = torch.bmm(slope_KmD, value_KTD[:, seen].mT).sub_(_stacked(mean_HT1[:, part], key_KTD))
            of_scores_Kmk.mul_(share_Kmk)
            found[0][0, :, part] = _apart(torch.bmm(of_scores_Kmk, keys_KkD).mul_(ctx.scale), part)
            of_key_KTD[:, seen].baddbmm_(of_scores_Kmk.mT, query_KmD, alpha=1 / LOG2_E)  # the queries hold the scale
        found[1][0], found[2][0] = of_key_KTD, of_value_KTD
        return *found, None, None


def _blocks(lengths: Sequence[int]) -> Iterator[tuple[slice, slice]]:
    """Tokens of the row, about QUERIES of a sequence at a time, and those of their sequence up to the last of them."""
    begin = 0
    for length in lengths:
        size = -(-length // max(1, round(length / QUERIES)))
        for start in range(0, length, size):
            stop = begin + min(start + size, length)
            yield slice(begin + start, stop), slice(begin, stop)
        begin += length


def _stacked(one_HqD: Tensor, keys_KTD: Tensor) -> Tensor:
    """[K, m, D]: the heads that share keys under each other."""
    return one_HqD.reshape(keys_KTD.shape[0], -1, one_HqD.shape[2])


def _apart(stacked_KmD: Tensor, part: slice) -> Tensor:
    """[H, q, D], a view."""
    return stacked_KmD.view(-1, part.stop - part.start, stacked_KmD.shape[2])


def _own(scores_Kmk: Tensor, part: slice) -> Tensor:
    """[H, q, q], a view: each head's queries and the keys of the same tokens, the last."""
    return _apart(scores_Kmk, part)[..., part.start - part.stop :]
