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

from hone.kernels.cpu_product import product

CHUNK_ELEMENTS, CACHED_ELEMENTS = 2**25, 2**22
"""Logits formed at a time, 128 MiB in fp32; on a CPU as many as its last cache holds."""
FEWEST_ROWS = 128
"""Positions below which a product reads the head's weight more often than the cache saves."""


def elements_at_once(num_ids: int, device: torch.device) -> int:
    """Logits that are formed at a time of a head of `num_ids`."""
    return min(CHUNK_ELEMENTS, max(CACHED_ELEMENTS, FEWEST_ROWS * num_ids)) if device.type == "cpu" else CHUNK_ELEMENTS


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
    chunk_elements: int | None = None,
) -> Tensor:
    """The same as `reference`, fp32 [N], holding at most `chunk_elements` logits at a time (None: `elements_at_once`).

    Where the head is frozen the gradient of the hidden states is formed in the forward pass and only scaled in the backward,
    so nothing is computed twice; where it is trained the logits are formed again. Under autocast it projects in autocast's type.
    """
    device_type = hidden_ND.device.type
    dtype = torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else hidden_ND.dtype
    head_needs = torch.is_grad_enabled() and (weight_VD.requires_grad or (bias_V is not None and bias_V.requires_grad))
    hidden_needs = torch.is_grad_enabled() and hidden_ND.requires_grad
    num_ids = weight_VD.shape[0]
    rows = max(1, (chunk_elements or elements_at_once(num_ids, hidden_ND.device)) // num_ids)
    form = _Form(logit_map, rows, dtype, head_needs, hidden_needs)
    return _Chunked.apply(hidden_ND, weight_VD, bias_V, ids_N, form)


def through(
    project: Callable[[Tensor], Tensor],
    hidden_ND: Tensor,
    ids_N: Tensor,
    num_ids: int,
    logit_map: LogitMap = PLAIN,
    *,
    chunk_elements: int | None = None,
) -> Tensor:
    """The same for a head that is not a plain linear layer: `project` maps hidden [n, D] to logits [n, V], chunk by chunk.

    Each chunk's logits are formed again in the backward pass.
    """

    def piece(part_nD: Tensor, part_n: Tensor) -> Tensor:
        return of_logits(logit_map.apply(project(part_nD).float()), part_n)

    rows = max(1, (chunk_elements or elements_at_once(num_ids, hidden_ND.device)) // num_ids)
    parts = zip(hidden_ND.split(rows), ids_N.split(rows), strict=True)
    return torch.cat([checkpoint(piece, part_nD, part_n, use_reentrant=False) for part_nD, part_n in parts])


@dataclass(frozen=True)
class _Form:
    logit_map: LogitMap
    rows: int
    dtype: torch.dtype
    head_needs: bool
    hidden_needs: bool


def _logits(hidden_nD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, form: _Form) -> Tensor:
    """fp32 [n, V]: mapped."""
    return form.logit_map.apply(product(hidden_nD.to(form.dtype), weight_VD, bias_V).float())


def _logprobs(mapped_nV: Tensor, softmax_nV: Tensor, ids_n: Tensor) -> Tensor:
    """fp32 [n], from the likeliest id's share, which never is too small for its logarithm."""
    top_n1, where_n1 = mapped_nV.max(-1, keepdim=True)
    chosen_n1 = mapped_nV.gather(-1, ids_n.unsqueeze(-1))
    return (chosen_n1 - top_n1 + softmax_nV.gather(-1, where_n1).log()).squeeze(-1)


def _descent(mapped_nV: Tensor, softmax_nV: Tensor, ids_n: Tensor, logit_map: LogitMap) -> Tensor:
    """Minus d logprob / d raw logits, [n, V] fp32, in place of the softmax: (softmax minus one-hot) times the map's slope."""
    ids_n1 = ids_n.unsqueeze(-1)
    softmax_nV.scatter_add_(-1, ids_n1, softmax_nV.new_full(ids_n1.shape, -1.0))
    slope = logit_map.slope(mapped_nV)
    return softmax_nV if isinstance(slope, float) and slope == 1.0 else softmax_nV.mul_(slope)


def _through(of_logits_nV: Tensor, weight_VD: Tensor) -> Tensor:
    """[n, D]: a gradient of logits as one of the hidden states, in the weight's type."""
    return product(of_logits_nV.to(weight_VD.dtype), weight_VD.T)


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, ids_N: Tensor, form: _Form) -> Tensor:
        weight = weight_VD.to(form.dtype)
        bias = None if bias_V is None else bias_V.to(form.dtype)
        eager = form.hidden_needs and not form.head_needs
        logprobs_N = torch.empty(len(ids_N), dtype=torch.float32, device=hidden_ND.device)
        descent_ND = torch.empty(hidden_ND.shape, dtype=form.dtype, device=hidden_ND.device) if eager else None
        with torch.autocast(hidden_ND.device.type, enabled=False):
            for start in range(0, len(ids_N), form.rows):
                part = slice(start, start + form.rows)
                mapped_nV = _logits(hidden_ND[part], weight, bias, form)
                softmax_nV = torch.softmax(mapped_nV, dim=-1)
                logprobs_N[part] = _logprobs(mapped_nV, softmax_nV, ids_N[part])
                if descent_ND is not None:
                    of_logits_nV = _descent(mapped_nV, softmax_nV, ids_N[part], form.logit_map)
                    del mapped_nV  # never more than two chunks at a time, nor one into the next round
                    descent_ND[part] = _through(of_logits_nV, weight)
                    del of_logits_nV
                mapped_nV = softmax_nV = None
        ctx.form, ctx.hidden_dtype = form, hidden_ND.dtype
        if eager:
            ctx.save_for_backward(descent_ND)
        elif form.head_needs:
            ctx.save_for_backward(hidden_ND, weight_VD, bias_V, ids_N)
        return logprobs_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_N: Tensor) -> tuple[Tensor | None, ...]:
        if not ctx.form.head_needs:
            (descent_ND,) = ctx.saved_tensors
            return (descent_ND * -gradient_N.unsqueeze(-1)).to(ctx.hidden_dtype), None, None, None, None
        return *_head_backward(ctx, gradient_N), None, None


def _head_backward(ctx: Any, gradient_N: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None]:
    """Gradients of hidden, weight and bias, from logits formed again; sums over chunks are kept in fp32."""
    form: _Form = ctx.form
    hidden_ND, weight_VD, bias_V, ids_N = ctx.saved_tensors
    weight = weight_VD.to(form.dtype)
    bias = None if bias_V is None else bias_V.to(form.dtype)
    of_hidden_ND = torch.empty_like(hidden_ND) if ctx.needs_input_grad[0] else None
    of_weight_VD = torch.zeros(weight_VD.shape, dtype=torch.float32, device=weight_VD.device)
    of_bias_V = None if bias is None else torch.zeros(bias.shape, dtype=torch.float32, device=bias.device)
    with torch.autocast(hidden_ND.device.type, enabled=False):
        for start in range(0, len(ids_N), form.rows):
            part = slice(start, start + form.rows)
            mapped_nV = _logits(hidden_ND[part], weight, bias, form)
            of_logits_nV = _descent(mapped_nV, torch.softmax(mapped_nV, dim=-1), ids_N[part], form.logit_map)
            del mapped_nV
            of_logits_nV.mul_(-gradient_N[part].unsqueeze(-1))
            if of_bias_V is not None:
                of_bias_V += of_logits_nV.sum(0)
            of_logits_nV = of_logits_nV.to(form.dtype)
            _add_product(of_weight_VD, of_logits_nV.T, hidden_ND[part].to(form.dtype))
            if of_hidden_ND is not None:
                of_hidden_ND[part] = _through(of_logits_nV, weight)
            del of_logits_nV
    return of_hidden_ND, of_weight_VD.to(weight_VD.dtype), None if of_bias_V is None else of_bias_V.to(bias_V.dtype)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add left times right to a total in fp32."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right
