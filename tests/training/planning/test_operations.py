"""What a rehearsal counts of operations that only a GPU has, by their arguments alone."""

from __future__ import annotations

import torch
import torch.nn.attention.varlen  # its operations are registered

from hone.training.planning.rehearsal import _operations

HEADS, FEWER, WIDTH = 4, 2, 8


def heads(num: int, tokens: int) -> torch.Tensor:
    return torch.empty(tokens, num, WIDTH)


def test_attention_of_pieces_counts_all_pairs_of_tokens_of_each():
    """Two products forward, five backward, 2 operations each: 4 and 10 times heads * width * (3 * 3 + 5 * 9), whatever the keys'
    heads."""
    ends, key_ends = torch.tensor([0, 3, 8], dtype=torch.int32), torch.tensor([0, 3, 12], dtype=torch.int32)
    query, key = heads(HEADS, 8), heads(FEWER, 12)
    pairs, found = HEADS * WIDTH * (3 * 3 + 5 * 9), torch.ops.torch_attn
    assert _operations(found._varlen_attn.default, (query, key, key, ends, key_ends, 5, 9, True), {}, None) == 4 * pairs
    back = (query, query, key, key, query, query, ends, key_ends, 5, 9, True)
    assert _operations(found._varlen_attn_backward.default, back, {}, None) == 10 * pairs


def test_attention_with_fewer_heads_of_keys_is_counted():
    """torch's own count refuses it."""
    query, key = torch.empty(1, HEADS, 10, WIDTH), torch.empty(1, FEWER, 10, WIDTH)
    kernel = torch.ops.aten._scaled_dot_product_flash_attention
    assert _operations(kernel.default, (query, key, key), {}, None) == 4 * query.numel() * 10
    back = torch.ops.aten._scaled_dot_product_flash_attention_backward
    assert _operations(back.default, (query, query, key, key), {}, None) == 10 * query.numel() * 10
