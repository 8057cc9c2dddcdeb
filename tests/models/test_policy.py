"""The policy's log-probs equal those of the plain forward, value and gradient, under every wrapper (every family: architectures).

Tolerance 1e-4 of the largest: fp32 sums over 99 words and a few layers in another order.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from hone.adapters.apply import attach
from hone.chat.encoded import IGNORE, Encoded
from hone.config.adapter import Lora
from hone.data.batch import Batch, pack
from hone.errors import ModelError
from hone.models.checkpointing import recompute_activations
from hone.models.policy import Policy
from tests.architectures import gradients, plain, sequences
from tests.families import tiny
from tests.worlds import under_ddp


def assert_equal(module: nn.Module, batch: Batch, parts: list[Encoded], policy: Policy, tolerance: float = 1e-4) -> None:
    logprobs = policy.token_logprobs(batch)
    assert logprobs.shape == batch.labels_BT.shape
    assert logprobs.dtype == torch.float32
    assert (logprobs[batch.labels_BT == IGNORE] == 0).all()
    wanted = plain(module, parts)
    assert logprobs.sum().item() == pytest.approx(wanted.item(), rel=tolerance, abs=tolerance)
    theirs, ours = gradients(module, wanted), gradients(module, logprobs.sum())
    largest = max(gradient.abs().max().item() for gradient in theirs.values())
    for name, gradient in theirs.items():
        assert (ours[name] - gradient).abs().max().item() <= tolerance * largest, name


@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen3_moe"])
def test_recomputed_activations_change_nothing(family):
    module, parts = tiny(family), sequences()
    recompute_activations(module)
    module.train()
    assert_equal(module, pack(parts), parts, Policy(module))


@pytest.mark.parametrize(
    "adapter",
    [
        Lora(),
        Lora(use_dora=True),
        Lora(lora_target=("q_proj", "lm_head")),
        Lora(additional_target=("lm_head",)),
        Lora(lora_target=("embed_tokens", "v_proj")),
    ],
    ids=["all", "dora", "head", "whole head", "embedding"],
)
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_with_an_adapter(family, adapter):
    module = attach(tiny(family, tie_word_embeddings=False), adapter, base_name="tiny")
    for name, weight in module.named_parameters():
        if "lora_B" in name or "lora_embedding_B" in name:
            nn.init.normal_(weight, std=0.1)
    policy = Policy(module)
    assert policy.self_test().fast
    assert_equal(module, pack(sequences()), sequences(), policy)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("family", ["llama", "gemma2", "cohere"])
def test_at_a_temperature(family, fast):
    """What is drawn from softmax(logits / 0.6), behind a cap and a scale of the logits too; value and gradient."""
    module, (part, *_) = tiny(family), sequences()
    policy = Policy(module)
    policy.temperature, policy.fast = 0.6, fast
    batch = pack([part])
    logits_TV = module(input_ids=batch.ids_BT, use_cache=False).logits[0, :-1] / 0.6
    labels_T = batch.labels_BT[0, 1:]
    learned = labels_T != IGNORE
    wanted = torch.log_softmax(logits_TV.float(), -1)[learned].gather(-1, labels_T[learned].unsqueeze(-1)).sum()
    ours = policy.token_logprobs(batch).sum()
    assert ours.item() == pytest.approx(wanted.item(), rel=1e-4)
    theirs, own = gradients(module, wanted), gradients(module, ours)
    largest = max(gradient.abs().max().item() for gradient in theirs.values())
    assert all((own[name] - gradient).abs().max().item() <= 1e-4 * largest for name, gradient in theirs.items())


def inside_ddp() -> None:
    wrapped = nn.parallel.DistributedDataParallel(tiny("llama"))
    policy = Policy(wrapped)
    assert policy.self_test().fast
    assert_equal(wrapped, pack(sequences()), sequences(), policy)


def test_inside_ddp(tmp_path):
    under_ddp(inside_ddp, tmp_path / "said")


def test_under_autocast_the_log_probs_stay_fp32():
    """bf16 keeps 8 bits: sums of 9 log-probs of size 5 agree to 1 %."""
    module, parts = tiny("llama"), sequences()
    policy = Policy(module)
    exact = policy.token_logprobs(pack(parts))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = policy.token_logprobs(pack(parts))
        assert got.dtype == torch.float32
        assert policy.self_test().can_pack
    assert got.sum().item() == pytest.approx(exact.sum().item(), rel=0.01)
    assert not torch.equal(got, exact)


def test_nothing_learned_still_reaches_every_weight_with_zeros():
    """Under DDP every process must go backward through every weight, also where its batch teaches nothing."""
    module = tiny("llama")
    ids = np.arange(3, 9, dtype=np.int32)
    logprobs = Policy(module).token_logprobs(pack([Encoded(ids, np.full_like(ids, IGNORE))]))
    assert logprobs.shape == (1, 6)
    logprobs.sum().backward()
    assert all(weight.grad is not None and not weight.grad.any() for weight in module.parameters())


def test_no_tensor_as_large_as_all_logits_is_made(monkeypatch):
    """128 positions of 5,000 ids: all logits are 640,000 numbers; four positions are learned, and the weights hold 160,000."""
    module = tiny("llama", vocab_size=5000)
    ids = np.arange(128, dtype=np.int32)
    labels = np.where(ids % 32 == 31, ids, IGNORE).astype(np.int32)
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            largest = max(largest, out.numel()) if isinstance(out, Tensor) else largest
            return out

    with Watch():
        Policy(module).token_logprobs(pack([Encoded(ids, labels)])).sum().backward()
    assert largest <= 5000 * 32


def test_a_module_that_learns_nothing_is_refused():
    module = tiny("llama").train().requires_grad_(False)
    with pytest.raises(ModelError, match="no gradient reaches"):
        Policy(module).token_logprobs(pack(sequences()))


def test_a_module_without_a_model_is_refused():
    with pytest.raises(ModelError, match="no transformers model"):
        Policy(nn.Linear(2, 2))
