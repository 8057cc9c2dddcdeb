"""Context parallel: a packed row cut over processes, each of which computes a part of its tokens and, in attention, of its heads.

Does not know what attention computes, the loss, or how weights lie. Ulysses: Jacobs et al. 2023, arXiv 2309.14509.

Axes: B row (one), T token of the whole row, t of this process's part, H head, h of this process, D width, N chosen token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import pad

from hone.errors import ModelError
from hone.kernels.packed_attention import Layout

if TYPE_CHECKING:
    from hone.models.forward import TokenBatch


@dataclass(frozen=True)
class Context:
    """The processes of one row: `size` of them in `group`, this one the `rank`-th, which has the `rank`-th part of the row."""

    group: Any
    size: int
    rank: int

    def part(self, row_BT: Tensor, fill: int | bool) -> Tensor:
        """[B, t]: this process's part of a row that is filled up until all parts are as long."""
        width = -(-row_BT.shape[1] // self.size)
        whole_BT = pad(row_BT, (0, width * self.size - row_BT.shape[1]), value=fill)
        return whole_BT[:, self.rank * width : (self.rank + 1) * width]

    def filled(self, layout: Layout) -> Layout:
        """The layout of the whole row with what it is filled up with, a piece that nobody else sees."""
        more = -layout.tokens % self.size
        if not more:
            return layout
        return Layout((*layout.lengths, more), (*layout.given, 0), (*layout.givers, len(layout.lengths)))

    def to_heads(self, query_BHtD: Tensor, key_BKtD: Tensor, value_BKtD: Tensor) -> list[Tensor]:
        """[B, h, T, D] of each: all tokens of this process's heads. Fewer heads of keys than processes are sent to several.

        Raises ModelError where the heads cannot be shared out alike.
        """
        num_heads, num_keys = query_BHtD.shape[1], key_BKtD.shape[1]
        if num_heads % self.size or (num_keys % self.size and self.size % num_keys):
            raise ModelError(f"{self.size} does not divide its {num_heads} heads, of which {num_keys} of keys")
        times = -(-self.size // num_keys)
        key_BKtD, value_BKtD = (one.repeat_interleave(times, dim=1) if times > 1 else one for one in (key_BKtD, value_BKtD))
        sent = [one.unflatten(1, (self.size, -1)).movedim(1, 0) for one in (query_BHtD, key_BKtD, value_BKtD)]
        flat = _Swap.apply(torch.cat([one.flatten(1) for one in sent], dim=1), self.group)
        parts = flat.split([one[0].numel() for one in sent], dim=1)
        return [part.view(one.shape).movedim(0, 2).flatten(2, 3) for part, one in zip(parts, sent, strict=True)]

    def to_tokens(self, found_BThD: Tensor) -> Tensor:
        """[B, t, H, D]: all heads of this process's tokens."""
        sent = found_BThD.unflatten(1, (self.size, -1)).movedim(1, 0)
        return _Swap.apply(sent, self.group).movedim(0, 2).flatten(2, 3)

    def first(self, where_BT: Tensor) -> int:
        """How many of the N tokens where `where_BT` is true are of earlier parts."""
        return sum(self._counts(where_BT)[: self.rank])

    def gathered(self, mine_n: Tensor, where_BT: Tensor) -> Tensor:
        """[N, ...]: what all processes have of the tokens where `where_BT` is true, in order; `mine_n`: of this process's.

        As each process goes on from there with the same loss, a gradient comes back `size` times: engines take the mean over all.
        """
        return _Gather.apply(mine_n, self._counts(where_BT), self)

    def _counts(self, where_BT: Tensor) -> list[int]:
        width = -(-where_BT.shape[1] // self.size)
        return [int(part.sum()) for part in pad(where_BT, (0, width * self.size - where_BT.shape[1])).split(width, dim=1)]


@dataclass(frozen=True)
class Spread:
    """The layout of a whole row, of which a forward sees a part."""

    layout: Layout
    context: Context

    @property
    def tokens(self) -> int:
        """Of the part."""
        return self.layout.tokens // self.context.size


@dataclass(frozen=True)
class Part:
    """A process's part of a batch, with the whole one's layout."""

    ids_BT: Tensor
    labels_BT: Tensor
    positions_BT: Tensor
    segments_BT: Tensor

    @property
    def known(self) -> Part:
        """It is looked at by nobody."""
        return self


def part_of(batch: TokenBatch, context: Context, ignore: int) -> Part:
    """This process's part of a packed row."""
    fills = (0, ignore, 0, 0)
    rows = (batch.ids_BT, batch.labels_BT, batch.positions_BT, batch.segments_BT)
    return Part(*(context.part(row, fill) for row, fill in zip(rows, fills, strict=True)))


class _Swap(torch.autograd.Function):
    """[C, ...]: of every process its part for this one, in their order; sent as bytes, which every backend moves."""

    @staticmethod
    def forward(ctx: Any, sent: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return _swap(sent, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _swap(gradient, ctx.group), None


def _swap(sent: Tensor, group: Any) -> Tensor:
    sent = sent.contiguous()
    got = torch.empty_like(sent)
    dist.all_to_all_single(got.view(-1).view(torch.uint8), sent.view(-1).view(torch.uint8), group=group)
    return got


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mine_n: Tensor, counts: list[int], context: Context) -> Tensor:
        ctx.counts, ctx.context = counts, context
        most = max(counts)
        filled = torch.cat([mine_n, mine_n.new_zeros(most - len(mine_n), *mine_n.shape[1:])])
        every = [torch.empty_like(filled) for _ in counts]
        if most:
            sent = filled.contiguous().view(-1).view(torch.uint8)
            dist.all_gather([one.view(-1).view(torch.uint8) for one in every], sent, group=context.group)
        return torch.cat([one[:count] for one, count in zip(every, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient_N: Tensor) -> tuple[Tensor, None, None]:
        context: Context = ctx.context
        start = sum(ctx.counts[: context.rank])
        return gradient_N[start : start + ctx.counts[context.rank]] * context.size, None, None
