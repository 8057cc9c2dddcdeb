"""Numbers of each position's whole distribution straight from hidden states, never forming all logits: reference and chunked.

Does not know which numbers (the caller's `measure` computes them of a chunk's logits), nor the model, the batch or the loss.

Axes: N position, n position of a chunk, D width, V vocabulary, M number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from hone.kernels.token_logprobs import PLAIN, LogitMap, elements_at_once

Measure = Callable[[Tensor, slice], Tensor]
"""From the fp32 mapped logits [n, V] of the positions in the slice to fp32 [M, n]: the first row is learned, the others are told.

A position's numbers must follow from its own logits alone."""


def reference(
    hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, measure: Measure, logit_map: LogitMap = PLAIN
) -> Tensor:
    """The specification: fp32 [M, N], `measure` of every position's whole logits; only the first row has a gradient."""
    return of_logits(logit_map.apply(functional.linear(hidden_ND, weight_VD, bias_V).float()), measure)


def of_logits(logits_NV: Tensor, measure: Measure) -> Tensor:
    """fp32 [M, N], `measure` of mapped logits that are already there."""
    return _first_learned(measure(logits_NV.float(), slice(0, len(logits_NV))))


def chunked(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    measure: Measure,
    logit_map: LogitMap = PLAIN,
    *,
    chunk_elements: int | None = None,
) -> Tensor:
    """The same as `reference`, fp32 [M, N], on at most `chunk_elements` logits at a time (None: `elements_at_once`).

    Where the head is frozen the gradient of the hidden states is formed in the forward pass and only scaled in the backward;
    where it is trained the logits are formed again, and `measure` is called again. Under autocast it projects in its type.
    """
    device_type = hidden_ND.device.type
    autocast = torch.is_autocast_enabled(device_type)
    dtype = torch.get_autocast_dtype(device_type) if autocast else hidden_ND.dtype
    head_needs = torch.is_grad_enabled() and (weight_VD.requires_grad or (bias_V is not None and bias_V.requires_grad))
    hidden_needs = torch.is_grad_enabled() and hidden_ND.requires_grad
    num_ids = weight_VD.shape[0]
    rows = max(1, (chunk_elements or elements_at_once(num_ids, hidden_ND.device)) // num_ids)
    form = _Form(measure, logit_map, rows, dtype, autocast, head_needs, hidden_needs)
    learned_N, told_MN = _Chunked.apply(hidden_ND, weight_VD, bias_V, form)
    return torch.cat([learned_N.unsqueeze(0), told_MN])


def through(
    project: Callable[[Tensor], Tensor],
    hidden_ND: Tensor,
    num_ids: int,
    measure: Measure,
    logit_map: LogitMap = PLAIN,
    *,
    chunk_elements: int | None = None,
) -> Tensor:
    """The same for a head that is not a plain linear layer: `project` maps hidden [n, D] to logits [n, V], chunk by chunk.

    Each chunk's logits are formed again in the backward pass.
    """

    def piece(part_nD: Tensor, part: slice) -> Tensor:
        return _first_learned(measure(logit_map.apply(project(part_nD).float()), part))

    rows = max(1, (chunk_elements or elements_at_once(num_ids, hidden_ND.device)) // num_ids)
    parts = _parts(len(hidden_ND), rows)
    return torch.cat([checkpoint(piece, hidden_ND[part], part, use_reentrant=False) for part in parts], dim=1)


def _first_learned(numbers_MN: Tensor) -> Tensor:
    return torch.cat([numbers_MN[:1], numbers_MN[1:].detach()])


def _parts(num: int, rows: int) -> list[slice]:
    """One at least: also of no positions a measure has M numbers."""
    return [slice(start, min(start + rows, num)) for start in range(0, max(num, 1), rows)]


@dataclass(frozen=True)
class _Form:
    measure: Measure
    logit_map: LogitMap
    rows: int
    dtype: torch.dtype
    autocast: bool
    head_needs: bool
    hidden_needs: bool

    def numbers(self, logits_nV: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        """[n] with gradient to the raw logits and [M - 1, n], in the forward's own autocast, which a backward is not in."""
        with torch.enable_grad(), torch.autocast(logits_nV.device.type, dtype=self.dtype, enabled=self.autocast):
            numbers_Mn = self.measure(self.logit_map.apply(logits_nV), part)
            return numbers_Mn[0], numbers_Mn[1:].detach()


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, form: _Form) -> tuple[Tensor, Tensor]:
        weight = weight_VD.to(form.dtype)
        bias = None if bias_V is None else bias_V.to(form.dtype)
        eager = form.hidden_needs and not form.head_needs
        slope_ND = torch.empty(hidden_ND.shape, dtype=form.dtype, device=hidden_ND.device) if eager else None
        learned, told = [], []
        for part in _parts(len(hidden_ND), form.rows):
            logits_nV = _project(hidden_ND[part], weight, bias, form).requires_grad_(eager)
            learned_n, told_Mn = form.numbers(logits_nV, part)
            if slope_ND is not None:
                (of_logits_nV,) = torch.autograd.grad(learned_n, logits_nV, torch.ones_like(learned_n))
                torch.mm(of_logits_nV.to(form.dtype), weight, out=slope_ND[part])
                del of_logits_nV
            learned.append(learned_n.detach())
            told.append(told_Mn)
            del logits_nV, learned_n  # never two chunks at a time
        ctx.form, ctx.hidden_dtype = form, hidden_ND.dtype
        if eager:
            ctx.save_for_backward(slope_ND)
        elif form.head_needs:
            ctx.save_for_backward(hidden_ND, weight_VD, bias_V)
        told_MN = torch.cat(told, dim=1)
        ctx.mark_non_differentiable(told_MN)
        return torch.cat(learned), told_MN

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_N: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        if not ctx.form.head_needs:
            (slope_ND,) = ctx.saved_tensors
            return (slope_ND * gradient_N.unsqueeze(-1)).to(ctx.hidden_dtype), None, None, None
        return *_head_backward(ctx, gradient_N), None


def _project(hidden_nD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, form: _Form) -> Tensor:
    with torch.no_grad(), torch.autocast(hidden_nD.device.type, enabled=False):
        return functional.linear(hidden_nD.to(form.dtype), weight_VD, bias_V).float()


def _head_backward(ctx: Any, gradient_N: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None]:
    """Gradients of hidden, weight and bias, from logits formed again; sums over chunks are kept in fp32."""
    form: _Form = ctx.form
    hidden_ND, weight_VD, bias_V = ctx.saved_tensors
    weight = weight_VD.to(form.dtype)
    bias = None if bias_V is None else bias_V.to(form.dtype)
    of_hidden_ND = torch.empty_like(hidden_ND) if ctx.needs_input_grad[0] else None
    of_weight_VD = torch.zeros(weight_VD.shape, dtype=torch.float32, device=weight_VD.device)
    of_bias_V = None if bias is None else torch.zeros(bias.shape, dtype=torch.float32, device=bias.device)
    for part in _parts(len(hidden_ND), form.rows):
        logits_nV = _project(hidden_ND[part], weight, bias, form).requires_grad_()
        (of_logits_nV,) = torch.autograd.grad(form.numbers(logits_nV, part)[0], logits_nV, gradient_N[part])
        del logits_nV
        if of_bias_V is not None:
            of_bias_V += of_logits_nV.sum(0)
        of_logits_nV = of_logits_nV.to(form.dtype)
        of_weight_VD += of_logits_nV.T @ hidden_ND[part].to(form.dtype)
        if of_hidden_ND is not None:
            of_hidden_ND[part] = (of_logits_nV @ weight).to(hidden_ND.dtype)
        del of_logits_nV
    return of_hidden_ND, of_weight_VD.to(weight_VD.dtype), None if of_bias_V is None else of_bias_V.to(bias_V.dtype)
