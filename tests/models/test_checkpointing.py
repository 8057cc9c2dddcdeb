"""Whatever is kept for the backward pass, gradients are the same to the bit: the same products of the same numbers.

Widths of these models are below what is worth keeping, so the threshold is lowered where results are to be kept.
"""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from hone.adapters.apply import attach, without_adapter
from hone.chat.encoded import Example
from hone.config.adapter import Lora
from hone.data.batch import Batch, pack, pad, share
from hone.models import checkpointing
from hone.models.checkpointing import recompute_activations
from hone.models.forward import evaluating
from hone.models.offload import Shuttle
from hone.models.policy import Policy
from tests.architectures import sequences
from tests.families import tiny

KINDS = ("kept", "selective", "full", "offloaded")


@pytest.fixture(autouse=True)
def products_of_tiny_models_are_worth_keeping(monkeypatch):
    monkeypatch.setattr(checkpointing, "KEPT_ABOVE", 8)


def pairs() -> Batch:
    """Two sequences with a beginning in common, which stands there once."""
    first, second, *_ = sequences()
    second.ids[:3] = first.ids[:3]
    first.labels[:3], second.labels[:3] = -100, -100
    return share([Example((first, second))])


LAYOUTS = {"packed": lambda: pack(sequences()), "padded": lambda: pad(sequences(), 0), "shared": pairs}


def gradients_of(family: str, kind: str, batch: Batch, *, reference: bool = False) -> dict[str, Tensor]:
    """Of a step with LoRA and dropout; with a pass of the model without its adapter before, as in DPO."""
    module = tiny(family)
    recompute_activations(module, kind)
    torch.manual_seed(0)
    module = attach(module, Lora(lora_rank=4, lora_dropout=0.3), base_name="tiny").train()
    for name, weight in module.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.1)
    policy, base = Policy(module), 0.0
    if reference:
        with torch.no_grad(), without_adapter(module), evaluating(policy):
            base = policy.token_logprobs(batch)
    torch.manual_seed(1)
    (policy.token_logprobs(batch) - base).sigmoid().sum().backward()
    return {name: weight.grad for name, weight in module.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("family", ["llama", "gemma2", "mixtral"])
def test_gradients_are_the_same_to_the_bit(family, layout):
    kept = gradients_of(family, "kept", LAYOUTS[layout](), reference=layout == "shared")
    assert kept and any(gradient.abs().max() > 0 for gradient in kept.values())
    for kind in KINDS[1:]:
        found = gradients_of(family, kind, LAYOUTS[layout](), reference=layout == "shared")
        assert found.keys() == kept.keys()
        assert all(torch.equal(found[name], kept[name]) for name in kept), kind


@pytest.mark.parametrize("learns", ["lora", "full"])
@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen3", "glm4", "mixtral"])
def test_some_tokens_at_a_time_give_the_same_gradients(family, learns, monkeypatch):
    """Of feed-forward layers and norms, those of heads too. 1e-5: sums over tokens are taken in another order."""
    monkeypatch.setattr(checkpointing, "tokens_at_once", lambda module, width: 4)
    tiles, whole = [], checkpointing.tiled

    def noted(own, *rest, **more):
        tiles.append(type(own.args[0]).__name__)
        return whole(own, *rest, **more)

    monkeypatch.setattr(checkpointing, "tiled", noted)

    def gradients(kind: str) -> list[Tensor]:
        module = tiny(family)
        recompute_activations(module, kind)
        if learns == "lora":
            torch.manual_seed(0)
            module = attach(module, Lora(lora_rank=4), base_name="tiny")
        Policy(module.train()).token_logprobs(pack(sequences())).sum().backward()
        return [weight.grad for weight in module.parameters() if weight.grad is not None]

    kept = gradients("kept")
    assert not tiles
    for kind in ("full", "offloaded"):
        for one, other in zip(kept, gradients(kind), strict=True):
            assert (one - other).abs().max() <= 1e-5 * max(1.0, float(one.abs().max()))
    assert any(name.endswith("Norm") for name in tiles)
    assert family == "mixtral" or any("MLP" in name for name in tiles), "experts see the tokens that chose them"


class Count(TorchDispatchMode):
    """Operations by name."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen[func.__name__.partition(".")[0]] += 1
        return func(*args, **(kwargs or {}))


def in_the_backward_pass(kind: str, rank: int) -> Counter[str]:
    module = tiny("llama")
    recompute_activations(module, kind)
    policy = Policy(attach(module, Lora(lora_rank=rank), base_name="tiny").train())
    loss = policy.token_logprobs(pack(sequences())).sum()
    with Count() as count:
        loss.backward()
    return count.seen


def test_selective_computes_no_product_of_the_base_again_and_no_attention():
    """Two layers of seven products, each with an adapter's two; three sequences, each of which attends by itself.

    The adapter's second product, added to the base's, is one of `rank` terms, and computed again where they are few.
    """
    kept, selective, full = (in_the_backward_pass(kind, 4) for kind in ("kept", "selective", "full"))
    attention = "_scaled_dot_product_flash_attention_for_cpu"
    assert (kept[attention], selective[attention], full[attention]) == (0, 0, 3 * 2)
    assert full["mm"] - kept["mm"] == 2 * 7 * 2 and selective["mm"] == kept["mm"]
    assert selective["addmm"] - kept["addmm"] == 2 * 7
    assert in_the_backward_pass("selective", 16)["addmm"] == kept["addmm"]
    assert selective["silu"] - kept["silu"] == 2


def test_offloaded_parcels_come_back_in_any_order_and_none_is_left():
    shuttle = Shuttle(torch.device("cpu"))
    run = shuttle.around(lambda function, hidden: checkpoint(function, hidden, use_reentrant=False))
    first, second = torch.ones(3, requires_grad=True), torch.full((3,), 2.0, requires_grad=True)
    left, right = run(torch.exp, first * 1), run(torch.sin, second * 1)
    left.sum().backward()
    right.sum().backward()
    assert torch.allclose(first.grad, torch.ones(3).exp()) and torch.allclose(second.grad, torch.full((3,), 2.0).cos())
    assert not shuttle._away
