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

from hone.kernels.causal_fp32 import LOG2_E
from hone.kernels.cpu_product import product
from hone.kernels.selfcheck import is_rehearsed

CHUNK_ELEMENTS, CACHED_ELEMENTS = 2**25, 2**23
"""Logits formed at a time, 128 MiB in fp32; on a CPU about as many as its last cache holds."""
FEWEST_ROWS = 128
"""Positions below which a product reads the head's weight more often than the cache saves."""
BLOCK_ELEMENTS, FEWEST_IN_BLOCK = 2**19, 8
"""Logits of a chunk that a CPU goes through at a time, pass after pass, in a core's own cache; and positions at least."""


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
    alike: bool = False,
) -> Tensor:
    """The same as `reference`, fp32 [N], holding at most `chunk_elements` logits at a time (None: `elements_at_once`).

    Where the head is frozen the gradient of the hidden states is formed in the forward pass and only scaled in the backward,
    so nothing is computed twice; where it is trained the logits are formed again, unless all log-probs are expected to get
    one gradient, `alike`, and do. Under autocast it projects in autocast's type.
    """
    device_type = hidden_ND.device.type
    dtype = torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else hidden_ND.dtype
    head_needs = torch.is_grad_enabled() and (weight_VD.requires_grad or (bias_V is not None and bias_V.requires_grad))
    hidden_needs = torch.is_grad_enabled() and hidden_ND.requires_grad
    num_ids = weight_VD.shape[0]
    rows = max(1, (chunk_elements or elements_at_once(num_ids, hidden_ND.device)) // num_ids)
    form = _Form(logit_map, rows, dtype, head_needs, hidden_needs, alike)
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
    alike: bool

    @property
    def eager(self) -> bool:
        """Whether gradients are formed in the forward pass, as of a sum of log-probs."""
        return self.alike if self.head_needs else self.hidden_needs


def _descend(logits_nV: Tensor, ids_n: Tensor, logit_map: LogitMap, weights_n: Tensor | None, *, slopes: bool) -> Tensor:
    """The log-probs, fp32 [n]; where `slopes`, in the place of the raw logits come minus the gradients by them, times weights."""
    on_cpu = logits_nV.device.type == "cpu"
    rows = max(FEWEST_IN_BLOCK, BLOCK_ELEMENTS // logits_nV.shape[1]) if on_cpu else len(ids_n)
    rows = max(rows, -(-len(ids_n) // 16)) if is_rehearsed(logits_nV) else rows  # nothing is computed, by as few calls
    logprobs_n = torch.empty(len(ids_n), dtype=torch.float32, device=logits_nV.device)
    for start in range(0, len(ids_n), rows):
        part = slice(start, start + rows)
        raw_bV, ids_b1 = logits_nV[part], ids_n[part].unsqueeze(-1)
        mapped_bV = logit_map.apply(raw_bV.float())
        slope, chosen_b1 = logit_map.slope(mapped_bV), mapped_bV.gather(-1, ids_b1)
        softmax_bV, least_b1 = (_softmax_in_place if on_cpu else _softmax)(mapped_bV)
        logprobs_n[part] = (chosen_b1 - least_b1).squeeze(-1)
        if not slopes:
            continue
        softmax_bV.scatter_add_(-1, ids_b1, softmax_bV.new_full(ids_b1.shape, -1.0))
        if not isinstance(slope, float) or slope != 1.0:
            softmax_bV.mul_(slope)
        if weights_n is not None:
            softmax_bV.mul_(weights_n[part].unsqueeze(-1))
        raw_bV.copy_(softmax_bV)
    return logprobs_n


def _softmax_in_place(logits_bV: Tensor) -> tuple[Tensor, Tensor]:
    """The softmax in the place of fp32 logits, and [b, 1] the log of what it was divided by."""
    top_b1 = logits_bV.amax(-1, keepdim=True)
    logits_bV.sub_(top_b1).mul_(LOG2_E).exp2_()
    total_b1 = logits_bV.sum(-1, keepdim=True)
    return logits_bV.div_(total_b1), top_b1 + total_b1.log()


def _softmax(logits_bV: Tensor) -> tuple[Tensor, Tensor]:
    """The same, which leaves the logits; the likeliest id's share never is too small for its logarithm."""
    softmax_bV = torch.softmax(logits_bV, dim=-1)
    top_b1, where_b1 = logits_bV.max(-1, keepdim=True)
    return softmax_bV, top_b1 - softmax_bV.gather(-1, where_b1).log()


@dataclass
class _Slopes:
    """Gradients of minus a sum of log-probs, added up over chunks: of hidden states in the type of products, else in fp32."""

    of_hidden_ND: Tensor | None
    of_weight_VD: Tensor | None
    of_bias_V: Tensor | None

    @classmethod
    def empty(cls, hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, form: _Form) -> _Slopes:
        """Of what needs one."""

        def zeros(like: Tensor | None) -> Tensor | None:
            return None if like is None or not form.head_needs else torch.zeros_like(like, dtype=torch.float32)

        of_hidden_ND = torch.empty_like(hidden_ND, dtype=form.dtype) if form.hidden_needs else None
        return cls(of_hidden_ND, zeros(weight_VD), zeros(bias_V))

    def add(self, part: slice, of_logits_nV: Tensor, hidden_nD: Tensor, weight: Tensor) -> None:
        """A chunk's."""
        if self.of_hidden_ND is not None:
            self.of_hidden_ND[part] = product(of_logits_nV, weight.T)
        if self.of_weight_VD is not None:
            _add_product(self.of_weight_VD, of_logits_nV.T, hidden_nD)
        if self.of_bias_V is not None:
            self.of_bias_V += of_logits_nV.sum(0, dtype=torch.float32)


def _pass(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    ids_N: Tensor,
    form: _Form,
    slopes: _Slopes | None,
    gradient_N: Tensor | None = None,
) -> Tensor:
    """The log-probs, fp32 [N]; their gradients, each times that of its log-prob where they are given, are added to `slopes`."""
    weight, bias = weight_VD.to(form.dtype), None if bias_V is None else bias_V.to(form.dtype)
    logprobs_N = torch.empty(len(ids_N), dtype=torch.float32, device=hidden_ND.device)
    with torch.autocast(hidden_ND.device.type, enabled=False):
        for start in range(0, len(ids_N), form.rows):
            part = slice(start, start + form.rows)
            hidden_nD = hidden_ND[part].to(form.dtype)
            logits_nV = product(hidden_nD, weight, bias)
            weights_n = None if gradient_N is None else gradient_N[part]
            logprobs_N[part] = _descend(logits_nV, ids_N[part], form.logit_map, weights_n, slopes=slopes is not None)
            if slopes is not None:
                slopes.add(part, logits_nV, hidden_nD, weight)
            del logits_nV  # never two chunks at a time
    return logprobs_N


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, ids_N: Tensor, form: _Form) -> Tensor:
        slopes = _Slopes.empty(hidden_ND, weight_VD, bias_V, form) if form.eager else None
        logprobs_N = _pass(hidden_ND, weight_VD, bias_V, ids_N, form, slopes)
        ctx.form, ctx.hidden_dtype, ctx.slopes = form, hidden_ND.dtype, slopes if form.head_needs else None
        if form.head_needs:
            ctx.save_for_backward(hidden_ND, weight_VD, bias_V, ids_N)
        elif slopes is not None:
            ctx.save_for_backward(slopes.of_hidden_ND)
        return logprobs_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_N: Tensor) -> tuple[Tensor | None, ...]:
        if not ctx.form.head_needs:
            (of_hidden_ND,) = ctx.saved_tensors
            return (of_hidden_ND * -gradient_N.unsqueeze(-1)).to(ctx.hidden_dtype), None, None, None, None
        hidden_ND, weight_VD, bias_V, ids_N = ctx.saved_tensors
        slopes, ctx.slopes = ctx.slopes, None
        if slopes is None or not _are_one(gradient_N):
            slopes, factor = _Slopes.empty(hidden_ND, weight_VD, bias_V, ctx.form), -1.0
            _pass(hidden_ND, weight_VD, bias_V, ids_N, ctx.form, slopes, gradient_N)
        else:
            factor = -gradient_N[0] if len(gradient_N) else 0.0
        found = (slopes.of_hidden_ND, slopes.of_weight_VD, slopes.of_bias_V)
        given = (hidden_ND, weight_VD, bias_V)
        scaled = [None if one is None else one.mul_(factor).to(of.dtype) for one, of in zip(found, given, strict=True)]
        return *scaled, None, None


def _are_one(gradient_N: Tensor) -> bool:
    """Whether all are the same number; those of a rehearsal, which has none, are what is expected."""
    return is_rehearsed(gradient_N) or bool((gradient_N == gradient_N[:1]).all())


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add left times right to a total in fp32."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right
