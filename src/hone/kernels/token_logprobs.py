"""Log-probs of chosen tokens straight from hidden states, without ever forming all logits: a reference and a chunked form.

Does not know the model, the batch or the loss; which positions are worth computing is the caller's choice.

Axes: N position, D width, V vocabulary.
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

CHUNK_ELEMENTS = 2**25
"""Logits formed at a time: 128 MiB in fp32."""


@dataclass(frozen=True)
class LogitMap:
    """What a family does to its logits before the softmax: logits * scale, then cap * tanh(logits / cap) where cap is not 0."""

    scale: float = 1.0
    cap: float = 0.0

    def apply(self, logits_NV: Tensor) -> Tensor:
        """The mapped logits; differentiable."""
        scaled_NV = logits_NV * self.scale if self.scale != 1.0 else logits_NV
        return self.cap * torch.tanh(scaled_NV / self.cap) if self.cap else scaled_NV

    def at(self, temperature: float) -> LogitMap:
        """The map whose logits are these divided by `temperature`."""
        return self if temperature == 1 else LogitMap(self.scale / temperature, self.cap / temperature)

    def slope(self, mapped_NV: Tensor) -> Tensor | float:
        """d mapped / d logits, written in the mapped logits."""
        return self.scale * (1 - (mapped_NV / self.cap).square()) if self.cap else self.scale


PLAIN = LogitMap()


def reference(hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, ids_N: Tensor, logit_map: LogitMap = PLAIN) -> Tensor:
    """The specification: fp32 [N], log softmax of every position's whole logits at ids_N."""
    return of_logits(logit_map.apply(functional.linear(hidden_ND, weight_VD, bias_V).float()), ids_N)


def of_logits(logits_NV: Tensor, ids_N: Tensor) -> Tensor:
    """fp32 [N], log softmax of logits that are already there, at ids_N."""
    return torch.log_softmax(logits_NV.float(), dim=-1).gather(-1, ids_N.unsqueeze(-1)).squeeze(-1)


def chunked(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    ids_N: Tensor,
    logit_map: LogitMap = PLAIN,
    *,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> Tensor:
    """The same as `reference`, fp32 [N], holding at most `chunk_elements` logits at a time.

    Where the head is frozen the gradient of the hidden states is formed in the forward pass and only scaled in the backward,
    so nothing is computed twice; where it is trained the logits are formed again. Under autocast it projects in autocast's type.
    """
    device_type = hidden_ND.device.type
    dtype = torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else hidden_ND.dtype
    head_needs = torch.is_grad_enabled() and (weight_VD.requires_grad or (bias_V is not None and bias_V.requires_grad))
    hidden_needs = torch.is_grad_enabled() and hidden_ND.requires_grad
    rows = max(1, chunk_elements // weight_VD.shape[0])
    form = _Form(logit_map, rows, dtype, head_needs, hidden_needs)
    return _Chunked.apply(hidden_ND, weight_VD, bias_V, ids_N, form)


def through(
    project: Callable[[Tensor], Tensor],
    hidden_ND: Tensor,
    ids_N: Tensor,
    num_ids: int,
    logit_map: LogitMap = PLAIN,
    *,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> Tensor:
    """The same for a head that is not a plain linear layer: `project` maps hidden [n, D] to logits [n, V], chunk by chunk.

    Each chunk's logits are formed again in the backward pass.
    """

    def piece(part_nD: Tensor, part_n: Tensor) -> Tensor:
        return of_logits(logit_map.apply(project(part_nD).float()), part_n)

    rows = max(1, chunk_elements // num_ids)
    parts = zip(hidden_ND.split(rows), ids_N.split(rows), strict=True)
    return torch.cat([checkpoint(piece, part_nD, part_n, use_reentrant=False) for part_nD, part_n in parts])


@dataclass(frozen=True)
class _Form:
    logit_map: LogitMap
    rows: int
    dtype: torch.dtype
    head_needs: bool
    hidden_needs: bool


def _surprise(mapped_nV: Tensor, logsumexp_n: Tensor, ids_n: Tensor, logit_map: LogitMap) -> Tensor:
    """d logprob / d raw logits, [n, V] fp32: (one-hot minus softmax) times the map's slope."""
    gradient_nV = (mapped_nV - logsumexp_n.unsqueeze(-1)).exp_().neg_()
    gradient_nV[torch.arange(len(ids_n), device=ids_n.device), ids_n] += 1
    slope = logit_map.slope(mapped_nV)
    return gradient_nV if isinstance(slope, float) and slope == 1.0 else gradient_nV.mul_(slope)


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, ids_N: Tensor, form: _Form) -> Tensor:
        weight = weight_VD.to(form.dtype)
        bias = None if bias_V is None else bias_V.to(form.dtype)
        eager = form.hidden_needs and not form.head_needs
        logprobs_N = torch.empty(len(ids_N), dtype=torch.float32, device=hidden_ND.device)
        logsumexp_N = torch.empty_like(logprobs_N)
        slope_ND = torch.empty(hidden_ND.shape, dtype=form.dtype, device=hidden_ND.device) if eager else None
        with torch.autocast(hidden_ND.device.type, enabled=False):
            for start in range(0, len(ids_N), form.rows):
                part = slice(start, start + form.rows)
                mapped_nV = form.logit_map.apply(functional.linear(hidden_ND[part].to(form.dtype), weight, bias).float())
                logsumexp_N[part] = torch.logsumexp(mapped_nV, dim=-1)
                logprobs_N[part] = mapped_nV.gather(-1, ids_N[part].unsqueeze(-1)).squeeze(-1) - logsumexp_N[part]
                if slope_ND is not None:
                    gradient_nV = _surprise(mapped_nV, logsumexp_N[part], ids_N[part], form.logit_map)
                    del mapped_nV  # never more than two chunks at a time, nor one into the next round
                    torch.mm(gradient_nV.to(form.dtype), weight, out=slope_ND[part])
                    del gradient_nV
        ctx.form, ctx.hidden_dtype = form, hidden_ND.dtype
        if eager:
            ctx.save_for_backward(slope_ND)
        elif form.head_needs:
            ctx.save_for_backward(hidden_ND, weight_VD, bias_V, ids_N, logsumexp_N)
        return logprobs_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_N: Tensor) -> tuple[Tensor | None, ...]:
        if not ctx.form.head_needs:
            (slope_ND,) = ctx.saved_tensors
            return (slope_ND * gradient_N.unsqueeze(-1)).to(ctx.hidden_dtype), None, None, None, None
        return *_head_backward(ctx, gradient_N), None, None


def _head_backward(ctx: Any, gradient_N: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None]:
    """Gradients of hidden, weight and bias, from logits formed again; sums over chunks are kept in fp32."""
    form: _Form = ctx.form
    hidden_ND, weight_VD, bias_V, ids_N, logsumexp_N = ctx.saved_tensors
    weight = weight_VD.to(form.dtype)
    bias = None if bias_V is None else bias_V.to(form.dtype)
    of_hidden_ND = torch.empty_like(hidden_ND) if ctx.needs_input_grad[0] else None
    of_weight_VD = torch.zeros(weight_VD.shape, dtype=torch.float32, device=weight_VD.device)
    of_bias_V = None if bias is None else torch.zeros(bias.shape, dtype=torch.float32, device=bias.device)
    with torch.autocast(hidden_ND.device.type, enabled=False):
        for start in range(0, len(ids_N), form.rows):
            part = slice(start, start + form.rows)
            hidden_nD = hidden_ND[part].to(form.dtype)
            mapped_nV = form.logit_map.apply(functional.linear(hidden_nD, weight, bias).float())
            of_logits_nV = _surprise(mapped_nV, logsumexp_N[part], ids_N[part], form.logit_map)
            del mapped_nV
            of_logits_nV.mul_(gradient_N[part].unsqueeze(-1))
            if of_bias_V is not None:
                of_bias_V += of_logits_nV.sum(0)
            of_logits_nV = of_logits_nV.to(form.dtype)
            of_weight_VD += of_logits_nV.T @ hidden_nD
            if of_hidden_ND is not None:
                of_hidden_ND[part] = (of_logits_nV @ weight).to(hidden_ND.dtype)
            del of_logits_nV
    return of_hidden_ND, of_weight_VD.to(weight_VD.dtype), None if of_bias_V is None else of_bias_V.to(bias_V.dtype)
