"""Attention of sequences that lie end to end in one row, each by itself: a reference with a mask, and a form that makes none.

Does not know the model, nor why pieces of a row begin alike.

Axes: B row (one), H head, K head of keys and values, T token, D width; q, k tokens of a piece.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from hone.kernels import causal_fp32
from hone.kernels.cpu_product import prefers_onednn, watched
from hone.kernels.machine import AMPERE, capability_of

BLOCK = 512
"""Tokens that attend at a time where a piece needs a mask, of a window or for what comes before it: so much of it is formed."""
SHORT = 1024
"""Tokens of a row's longest sequence up to which it is computed in fp32 where a CPU is faster so than in bf16."""


@dataclass(frozen=True)
class Layout:
    """How a row's tokens lie. lengths: of its pieces, end to end. A token sees its own piece up to itself.

    given, givers: before a piece come the first `given` tokens of the piece with the number `givers`, which stand in the row
    once for several. window: how many of all those a token sees at most, itself included; 0 for all.
    """

    lengths: tuple[int, ...]
    given: tuple[int, ...]
    givers: tuple[int, ...]
    window: int = 0
    _masks: dict[tuple[object, ...], Tensor] = field(default_factory=dict, compare=False, repr=False)

    @property
    def tokens(self) -> int:
        """Of the row."""
        return sum(self.lengths)

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence: a piece with what comes before it."""
        return max(map(int.__add__, self.lengths, self.given))

    def within(self, window: int) -> Layout:
        """The same row where a token sees at most `window` tokens."""
        return Layout(self.lengths, self.given, self.givers, window if window < self.longest else 0)

    def cut(self, size: int) -> Layout:
        """The same row where a token sees of its sequence the block of `size` tokens alone that it is in."""
        if size >= self.longest:
            return self
        assert not any(self.given), "blocks of sequences that share their beginning"
        return end_to_end([min(size, length - start) for length in self.lengths for start in range(0, length, size)])

    def band(self, num_queries: int, num_keys: int, like: Tensor) -> Tensor:
        """[q, k], to be added to scores: -inf where one of the last q of k tokens does not see one. Formed once a layout."""
        key = (num_queries, num_keys, like.dtype, like.device)
        if key not in self._masks:
            query_q1 = torch.arange(num_keys - num_queries, num_keys, device=like.device).unsqueeze(1)
            key_k = torch.arange(num_keys, device=like.device)
            hidden_qk = (key_k > query_q1) | (key_k <= query_q1 - (self.window or num_keys))
            zeros_qk = torch.zeros(hidden_qk.shape, dtype=like.dtype, device=like.device)
            self._masks[key] = zeros_qk.masked_fill(hidden_qk, float("-inf"))
        return self._masks[key]

    def sees(self, device: torch.device) -> Tensor:
        """bool [T, T]: whether a token, in its row, sees another."""
        counts_N, token_T = torch.tensor(self.lengths, device=device), torch.arange(self.tokens, device=device)
        piece_T = torch.repeat_interleave(counts_N)
        place_N, given_N = counts_N.cumsum(0) - counts_N, torch.tensor(self.given, device=device)
        begins_N = place_N[torch.tensor(self.givers, device=device)]
        own_TT = (piece_T == piece_T[:, None]).tril()
        before_TT = (token_T >= begins_N[piece_T, None]) & (token_T < (begins_N + given_N)[piece_T, None])
        if self.window:
            first_T = token_T - self.window + 1
            own_TT &= token_T >= first_T[:, None]
            before_TT &= token_T >= (first_T - (place_N - given_N - begins_N)[piece_T])[:, None]
        return own_TT | before_TT


def end_to_end(lengths: list[int]) -> Layout:
    """Sequences of these lengths, which have nothing in common."""
    return Layout(tuple(lengths), (0,) * len(lengths), tuple(range(len(lengths))))


def reference(query_BHTD: Tensor, key_BKTD: Tensor, value_BKTD: Tensor, layout: Layout, scale: float) -> Tensor:
    """The specification: [B, T, H, D] out of all scores [B, H, T, T] in fp32, without those that are not seen."""
    num = query_BHTD.shape[1] // key_BKTD.shape[1]
    key_BHTD, value_BHTD = key_BKTD.repeat_interleave(num, dim=1), value_BKTD.repeat_interleave(num, dim=1)
    scores_BHTT = (query_BHTD @ key_BHTD.transpose(2, 3)).float() * scale
    scores_BHTT = scores_BHTT.masked_fill(~layout.sees(query_BHTD.device), float("-inf"))
    return (scores_BHTT.softmax(dim=3).to(value_BHTD.dtype) @ value_BHTD).transpose(1, 2)


def by_piece(
    query_BHTD: Tensor, key_BKTD: Tensor, value_BKTD: Tensor, layout: Layout, scale: float, dropout: float = 0.0
) -> Tensor:
    """The same, [B, T, H, D], by torch's attention of each piece by itself, on any device; under autocast in its type.

    Values may have another width than keys. A piece of T tokens costs T^2 and none a mask but where it has a window that is
    shorter, or something before it: then BLOCK of its tokens attend at a time.
    """
    if not dropout and _gains_by_fp32(query_BHTD, key_BKTD, value_BKTD, layout):
        return causal_fp32.attend(query_BHTD, key_BKTD, value_BKTD, layout.lengths, scale)
    parts = zip(query_BHTD.split(layout.lengths, dim=2), keys_seen(key_BKTD, layout), keys_seen(value_BKTD, layout), strict=True)
    return torch.cat([_piece(*part, layout, scale, dropout).transpose(1, 2) for part in parts], dim=1)


def keys_seen(key_BKTD: Tensor, layout: Layout) -> list[Tensor]:
    """Of each piece [B, K, k, D]: itself, with what comes before it."""
    pieces = key_BKTD.split(layout.lengths, dim=2)
    return [
        torch.cat([pieces[giver][:, :, :given], piece], dim=2) if given else piece
        for piece, given, giver in zip(pieces, layout.given, layout.givers, strict=True)
    ]


def _piece(query_BHqD: Tensor, key_BKkD: Tensor, value_BKkD: Tensor, layout: Layout, scale: float, dropout: float) -> Tensor:
    """[B, H, q, D] of the last q of k tokens."""
    num_queries, num_keys = query_BHqD.shape[2], key_BKkD.shape[2]
    given, window = num_keys - num_queries, layout.window or num_keys
    if not given and window >= num_keys:
        return _attend(query_BHqD, key_BKkD, value_BKkD, None, scale, dropout)
    blocks = []
    for start in range(0, num_queries, BLOCK):
        stop = min(start + BLOCK, num_queries)
        seen = slice(max(0, given + start - window + 1), given + stop)
        band_qk = layout.band(stop - start, seen.stop - seen.start, query_BHqD)
        blocks.append(
            _attend(query_BHqD[:, :, start:stop], key_BKkD[:, :, seen], value_BKkD[:, :, seen], band_qk, scale, dropout)
        )
    return torch.cat(blocks, dim=2)


def _attend(
    query_BHqD: Tensor, key_BKkD: Tensor, value_BKkD: Tensor, band_qk: Tensor | None, scale: float, dropout: float
) -> Tensor:
    """torch's attention; causal without a mask. Heads of keys are repeated where its kernels would else form all scores."""
    num = query_BHqD.shape[1] // key_BKkD.shape[1]
    grouped = num > 1 and _takes_groups(query_BHqD, value_BKkD, masked=band_qk is not None)
    if num > 1 and not grouped:
        key_BKkD, value_BKkD = key_BKkD.repeat_interleave(num, dim=1), value_BKkD.repeat_interleave(num, dim=1)
    return scaled_dot_product_attention(
        query_BHqD,
        key_BKkD,
        value_BKkD,
        attn_mask=band_qk,
        is_causal=band_qk is None,
        dropout_p=dropout,
        scale=scale,
        enable_gqa=grouped,
    )


def _takes_groups(query_BHqD: Tensor, value_BKkD: Tensor, *, masked: bool) -> bool:
    """Whether torch's fast kernels for this device take fewer heads of keys than of queries."""
    if query_BHqD.device.type == "cuda":
        small = query_BHqD.element_size() == 2 and query_BHqD.shape[3] == value_BKkD.shape[3] <= 256
        return small and not masked and capability_of(query_BHqD.device) >= AMPERE
    return query_BHqD.device.type == "cpu"


def _gains_by_fp32(query_BHTD: Tensor, key_BKTD: Tensor, value_BKTD: Tensor, layout: Layout) -> bool:
    """Whether torch's kernel for this CPU is slower in bf16 than products in fp32: on AMD, for short sequences.

    EPYC 9004, one thread, 4 heads of width 64 and 2 of keys, forward and backward, bf16 over this: 1.1 times at 100 tokens, 1.3
    at 256 and 600, 1.4 at 330, 1.0 at 1,000.
    """
    bf16 = all(one.dtype == torch.bfloat16 for one in (query_BHTD, key_BKTD, value_BKTD))
    if not bf16 or query_BHTD.device.type != "cpu" or any(layout.given) or layout.window:
        return False
    return layout.longest <= SHORT and prefers_onednn() and not watched()  # who watches knows attention by its name
