"""Rows cut over processes: log-probs, other readings and gradients are those of the whole row in one process.

Tolerance: sums in fp32 in another order; 1e-6 of the largest number of each gradient.
"""

from __future__ import annotations

import traceback
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, Qwen3Config, Qwen3ForCausalLM

from hone.chat.encoded import Encoded
from hone.data.batch import Batch, pack
from hone.errors import ModelError
from hone.kernels.packed_attention import end_to_end
from hone.models.context import Context, Spread
from hone.models.policy import Policy
from hone.models.tap import predicting
from hone.training.processes.launch import leave
from tests import worlds

SIZES = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
MODELS: dict[str, tuple[Any, Any, dict[str, Any]]] = {  # two heads of keys to four of queries
    "llama": (LlamaForCausalLM, LlamaConfig, {}),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {"head_dim": 8}),
    "mistral, window": (MistralForCausalLM, MistralConfig, {"sliding_window": 6}),
}
ROWS = [(7, 5, 9), (21,), (3, 30, 2, 2)]
"""Lengths of the sequences of a row; none of the sums is a multiple of four."""


def policy_of(name: str, **more: Any) -> Policy:
    model, config, own = MODELS[name]
    torch.manual_seed(0)
    return Policy(model(config(**{**SIZES, "num_key_value_heads": 2, **own, **more})).train())


def row_of(lengths: tuple[int, ...]) -> Batch:
    """The second half of each sequence is learned."""
    draw = np.random.default_rng(0)
    ids = [draw.integers(0, 61, length).astype(np.int32) for length in lengths]
    labels = [np.where(np.arange(len(one)) < len(one) // 2, -100, one).astype(np.int32) for one in ids]
    return pack([Encoded(one, learned) for one, learned in zip(ids, labels, strict=True)], range(len(lengths)))


def learned(policy: Policy, batch: Batch) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """A weighed sum of the losses, and the gradients, as the mean over the processes where there are several."""
    weights_BT = torch.rand(batch.ids_BT.shape, generator=torch.Generator().manual_seed(1))
    policy.module.zero_grad()
    loss = (policy.token_losses(batch) * weights_BT).sum()
    loss.backward()
    gradients = [weight.grad.clone() for weight in policy.module.parameters() if weight.grad is not None]
    if policy.context is not None:
        for gradient in gradients:
            dist.all_reduce(gradient)
            gradient /= policy.context.size
    return loss.detach(), gradients


def apart(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest difference, as a share of the largest number."""
    return float((found - wanted).abs().max() / wanted.abs().max())


def compare(name: str, lengths: tuple[int, ...], context: Context) -> None:
    policy, batch = policy_of(name), row_of(lengths)
    where_BT = predicting(batch.labels_BT)
    entropies = lambda logits_nV, part: torch.stack([torch.softmax(logits_nV, -1).square().sum(-1), rank_N[part]])  # noqa: E731
    rank_N = torch.arange(int(where_BT.sum()), dtype=torch.float32)

    def readings() -> list[torch.Tensor]:
        loss, gradients = learned(policy, batch)
        with torch.no_grad():
            return [loss, *gradients, policy.measured(batch, entropies), policy.hidden(batch, where_BT)]

    whole = readings()
    policy.context = context
    cut = readings()
    worst = max(apart(one, other) for one, other in zip(cut, whole, strict=True))
    assert worst < 1e-6, (name, lengths, worst)


def every() -> int:
    """What each process does."""
    code = 1
    try:
        dist.init_process_group("gloo")
        context = Context(None, dist.get_world_size(), dist.get_rank())
        for name in MODELS:
            for lengths in ROWS:
                compare(name, lengths, context)
        policy = policy_of("llama", hidden_size=24, num_attention_heads=3, num_key_value_heads=1)
        with pytest.raises(
            ModelError, match=r"LlamaForCausalLM cannot be cut .*2 does not divide its 3 heads, of which 1 of keys"
        ):
            policy.cut_over(context)
        policy = policy_of("llama")
        policy.cut_over(context)
        assert policy.context is context
        code = 0
    except BaseException:
        traceback.print_exc()
    leave(code)


def test_a_row_that_is_cut_over_two_processes_learns_as_the_whole_row(tmp_path):
    worlds.fork(2, every, beside=tmp_path / "cut")


def test_the_parts_of_a_row_are_alike_and_what_fills_the_last_is_seen_by_nobody():
    row_BT = torch.arange(1, 6)[None]
    parts = [Context(None, 4, rank).part(row_BT, 0).tolist() for rank in range(4)]
    assert parts == [[[1, 2]], [[3, 4]], [[5, 0]], [[0, 0]]]
    context = Context(None, 4, 2)
    where_BT = row_BT > 2
    assert context._counts(where_BT) == [0, 2, 1, 0] and context.first(where_BT) == 2
    filled = context.filled(end_to_end([3, 2]))
    assert filled.lengths == (3, 2, 3) and Spread(filled, context).tokens == 2
    assert not filled.sees(torch.device("cpu"))[:5, 5:].any()
