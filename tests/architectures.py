"""What is found of one causal architecture: a tiny random model of it is put through everything hone does with a model.

Does not know what ought to be found (tests/models/test_architectures.py does) nor how it is written down (docs/make_models.py).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, PreTrainedModel

from hone.adapters.apply import attach, load_trained, save_trained
from hone.adapters.fuse import Fused
from hone.chat.encoded import IGNORE, Encoded, Example
from hone.config.adapter import Lora
from hone.data.batch import Batch, pack, pad, share
from hone.kernels.attach import OPERATIONS
from hone.kernels.attach import attach as fuse
from hone.models.policy import Policy
from hone.models.quirks import padded_only
from hone.models.shape import Shape, shape_of
from tests.families import VOCAB, tiny

PREFIX = "base_model.model."


@dataclass(frozen=True)
class Gap:
    """Differences to the plain forward, as a part of it: of the summed log-prob, and the largest of any weight's gradient."""

    value: float
    gradient: float

    @property
    def none(self) -> bool:
        """Sums in fp32 over 99 words and a few layers, in another order, differ by less."""
        return self.value < 1e-5 and self.gradient < 1e-4


@dataclass(frozen=True)
class Found:
    """fast, can_pack, by_sequence: what the policy settled on; leak: the self-test's packed difference, in nats.

    padded, packed, shared: gaps; None where the policy does not pack, or does not share what pairs begin with.
    operated, together: the gaps of padded and of packed batches with every operation fused that a self-check lets through;
    operations: those. halves: how far the gradients of all weights in bf16 are from those in fp32, as a part of them: of the
    plain forward, and of the fused one on packed batches, or padded ones where it does not pack.
    adapted: the gap of a batch with LoRA on all linear layers in few products and every operation fused, to the plain forward and
    peft's own layers; half: the same as `halves`, of the adapter's gradients over a base in bf16.
    targets, left: paths of linear layers that LoRA `all` adapts and leaves out; fused: names of experts' weights.
    saved, adapter, merged: largest logit difference after a reload of the whole model, of the adapter's folder into a like
    module, and of the adapter merged into the base.
    router: the balance loss of the model's own forward and ours, on one sequence; None where the family has none.
    shape: its sizes, as the plan reads them.
    """

    fast: bool
    can_pack: bool
    by_sequence: bool
    leak: float
    padded_only: str
    padded: Gap
    packed: Gap | None
    shared: Gap | None
    operated: Gap
    together: Gap | None
    operations: frozenset[str]
    halves: tuple[float, float]
    adapted: Gap
    half: tuple[float, float]
    targets: frozenset[str]
    left: frozenset[str]
    fused: frozenset[str]
    saved: float
    adapter: float
    merged: float
    router: tuple[float, float] | None
    shape: Shape

    @property
    def right(self) -> bool:
        """The log-probs are the plain forward's, without all logits being formed."""
        return self.fast and self.padded.none

    @property
    def isolated(self) -> bool:
        """Packed sequences are as they are apart."""
        return self.packed is not None and self.packed.none and self.leak < 1e-4

    @property
    def learns(self) -> bool:
        """LoRA's loss and gradients are those of the plain forward with peft's layers; over a base in bf16 nearly as near."""
        plain, fast = self.half
        return self.adapted.none and fast < 2 * plain

    @property
    def reloads(self) -> bool:
        """What is saved is what is read: the whole model, the adapter, and the adapter merged, which rounds anew."""
        return self.saved < 1e-6 and self.adapter == 0 and self.merged < 1e-3

    @property
    def balanced(self) -> bool:
        """The router's balance loss is the model's own."""
        return self.router is not None and abs(self.router[1] / self.router[0] - 1) < 1e-5


def sequences(lengths=(6, 9, 4)) -> list[Encoded]:
    """Random ids; about half of the tokens are learned."""
    draw = np.random.default_rng(0)
    made = []
    for length in lengths:
        ids = draw.integers(3, VOCAB, length).astype(np.int32)
        labels = np.where(draw.random(length) < 0.5, ids, IGNORE).astype(np.int32)
        labels[-1] = ids[-1]
        made.append(Encoded(ids, labels))
    return made


def plain(module: nn.Module, parts: list[Encoded]) -> Tensor:
    """The summed log-prob of what is learned, every sequence by itself, from all logits."""
    total = torch.zeros(())
    for part in parts:
        ids = torch.as_tensor(part.ids, dtype=torch.int64)[None]
        labels = torch.as_tensor(part.labels, dtype=torch.int64)
        logits = module(input_ids=ids, use_cache=False).logits[0, :-1].float()
        total = total - functional.cross_entropy(logits, labels[1:], ignore_index=IGNORE, reduction="sum")
    return total


def gradients(module: nn.Module, value: Tensor) -> dict[str, Tensor]:
    """The gradient of `value` of every weight it reaches."""
    module.zero_grad()
    value.backward()
    return {name: weight.grad.clone() for name, weight in module.named_parameters() if weight.grad is not None}


def gap(module: nn.Module, batch: Batch, wanted: Tensor, theirs: dict[str, Tensor], policy: Policy) -> Gap:
    """How far the policy's log-probs of `batch` are from the plain forward's sum `wanted` with its gradients `theirs`."""
    logprobs = policy.token_logprobs(batch)
    ours = gradients(module, logprobs.sum())
    largest = max(gradient.abs().max().item() for gradient in theirs.values())
    apart = max((ours[name] - gradient).abs().max().item() for name, gradient in theirs.items())
    assert set(ours) == set(theirs)
    return Gap(abs(logprobs.sum().item() / wanted.item() - 1), apart / largest)


def logits(module: nn.Module) -> Tensor:
    """Of a fixed sequence."""
    with torch.no_grad():
        return module(input_ids=torch.arange(3, 12)[None], use_cache=False).logits


@cache
def examine(family: str) -> Found:
    """Everything about one family; about half a second."""
    module, parts = tiny(family), sequences()
    policy = Policy(module)
    found = policy.self_test()
    wanted = plain(module, parts)
    theirs = gradients(module, wanted)
    padded = gap(module, pad(parts, 0), wanted.detach(), theirs, policy)
    packed = gap(module, pack(parts), wanted.detach(), theirs, policy) if policy.can_pack else None
    operated, together, operations = _fused(module, parts, wanted.detach(), theirs, policy)
    halves = _halves(module, policy)
    shared = _shared(module, policy)
    module.zero_grad()
    router = _router(module)
    with TemporaryDirectory() as folder:
        saved = _saved(module, Path(folder) / "whole")
        linear = _linear(module)
        fused = frozenset(
            name.rpartition(".")[-1] for name, weight in module.named_parameters() if ".experts." in name and weight.dim() > 1
        )
        torch.manual_seed(1)
        tuned = attach(module, Lora(), base_name="tiny").eval()
        targets = _targets(tuned)
        adapted, half = _learned(tuned, policy)
        adapter, merged = _reloaded(family, tuned, Path(folder) / "adapter")
    return Found(
        *(found.fast, policy.can_pack, policy.by_sequence, found.packed_difference, padded_only(module.config)),
        *(padded, packed, shared, operated, together, operations, halves),
        *(adapted, half),
        *(targets, linear - targets, fused, saved, adapter, merged, router, shape_of(module)),
    )


def _fused(
    module: PreTrainedModel, parts: list[Encoded], wanted: Tensor, theirs: dict[str, Tensor], found: Policy
) -> tuple[Gap, Gap | None, frozenset[str]]:
    """Of a copy, which proves that one can be made."""
    twin = copy.deepcopy(module)
    operations = frozenset(fuse(twin, OPERATIONS).fused)
    policy = _like(found, twin)
    together = gap(twin, pack(parts), wanted, theirs, policy) if policy.can_pack else None
    return gap(twin, pad(parts, 0), wanted, theirs, policy), together, operations


def _like(found: Policy, module: nn.Module) -> Policy:
    """A policy of another module with what `found` has found."""
    policy = Policy(module)
    policy.can_pack, policy.by_sequence = found.can_pack, found.by_sequence
    return policy


def _halves(module: PreTrainedModel, found: Policy) -> tuple[float, float]:
    """On sequences of which no router chooses otherwise in bf16, as it may where two experts are nearly even."""
    parts = sequences((5, 7, 8))
    theirs = gradients(module, plain(module, parts))
    simple, fused = (copy.deepcopy(module).bfloat16() for _ in range(2))
    fuse(fused, OPERATIONS)
    policy = _like(found, fused)
    batch = pack(parts) if policy.can_pack else pad(parts, 0)
    rounded = gradients(simple, plain(simple, parts)), gradients(fused, policy.token_logprobs(batch).sum())
    first, second = (distance(ours, theirs) for ours in rounded)
    return first, second


def distance(ours: dict[str, Tensor], true: dict[str, Tensor]) -> float:
    """Length of the difference of all gradients, as a part of theirs."""
    whole = sum(float(one.square().sum()) for one in true.values())
    return (sum(float((ours[name] - one).square().sum()) for name, one in true.items()) / whole) ** 0.5


def pairs() -> list[Example]:
    """Two with a prompt in common, of 5 and 3 tokens, and one whose answers have only their first token in common."""
    draw, made = np.random.default_rng(1), []
    for prompt, *answers in ((5, 4, 6), (1, 5, 3), (3, 7, 2)):
        given = draw.integers(3, VOCAB, prompt)
        both = [np.concatenate([given, draw.integers(3, VOCAB, answer)]).astype(np.int32) for answer in answers]
        labels = [np.where(np.arange(len(ids)) < prompt, IGNORE, ids).astype(np.int32) for ids in both]
        made.append(Example(tuple(map(Encoded, both, labels))))
    return made


def _shared(module: PreTrainedModel, found: Policy) -> Gap | None:
    policy = Policy(module, 0.0)
    policy.can_pack, policy.by_sequence = found.can_pack, found.by_sequence
    policy.test_sharing()
    if not policy.can_share:
        return None
    batch, parts = share(pairs()), [one for pair in pairs() for one in pair.sequences]
    assert batch.ids_BT.numel() == sum(map(len, parts)) - 4 - 2
    wanted = plain(module, parts)
    return gap(module, batch, wanted.detach(), gradients(module, wanted), policy)


def _linear(module: PreTrainedModel) -> frozenset[str]:
    head = module.get_output_embeddings()
    kinds = {
        path: inner for path, inner in module.named_modules() if isinstance(inner, nn.Linear) or type(inner).__name__ == "Conv1D"
    }
    return frozenset(path for path, inner in kinds.items() if inner is not head)


def _saved(module: PreTrainedModel, folder: Path) -> float:
    before = logits(module)
    save_trained(module, folder)
    again = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32).eval()
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(1)
    load_trained(module, folder)
    return max((logits(again) - before).abs().max().item(), (logits(module) - before).abs().max().item())


def _targets(tuned: nn.Module) -> frozenset[str]:
    """The paths of what is adapted; the adapter is moved away from its start, where it is nothing."""
    names = {name for name, weight in tuned.named_parameters() if weight.requires_grad}
    targets = frozenset(name.removeprefix(PREFIX).split(".lora_A")[0] for name in names if ".lora_A" in name)
    assert {name.removeprefix(PREFIX).split(".lora_")[0] for name in names} == targets
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.1)
    return targets


def by_peft(tuned: nn.Module) -> nn.Module:
    """A copy whose adapted layers have peft's own forward."""
    twin = copy.deepcopy(tuned)
    layers = [layer for layer in twin.modules() if isinstance(layer, LoraLayer)]
    assert all(isinstance(layer, Fused) for layer in layers), "adapted, and not in few products"
    for layer in layers:
        layer.__class__ = type(layer).__mro__[2]
    return twin


def _learned(tuned: nn.Module, found: Policy) -> tuple[Gap, tuple[float, float]]:
    """Of copies: everything fused beside the plain forward of each sequence, in fp32, and of a base in bf16 under autocast."""
    simple, fused = by_peft(tuned), copy.deepcopy(tuned)
    fuse(fused, OPERATIONS)
    wanted, lay = sequences(), pack if found.can_pack else lambda parts: pad(parts, 0)
    value = plain(simple, wanted)
    apart = gap(fused, lay(wanted), value.detach(), gradients(simple, value), _like(found, fused))
    parts = sequences((5, 7, 8))
    for name, weight in (named for twin in (simple, fused) for named in twin.named_parameters()):
        weight.data.mul_(0.2 if "lora_B" in name else 1)  # a larger addition makes routers choose otherwise in bf16
    theirs = gradients(simple, plain(simple, parts))
    for weight in (weight for twin in (simple, fused) for weight in twin.parameters() if not weight.requires_grad):
        weight.data = weight.data.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = plain(simple, parts), _like(found, fused).token_logprobs(lay(parts)).sum()
    first, second = (distance(gradients(twin, value), theirs) for twin, value in zip((simple, fused), rounded, strict=True))
    return apart, (first, second)


def _reloaded(family: str, tuned: nn.Module, folder: Path) -> tuple[float, float]:
    before = logits(tuned)
    save_trained(tuned, folder)
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_" in name:
                weight.zero_()
    load_trained(tuned, folder)
    used = attach(tiny(family), Lora(adapter_name_or_path=(str(folder),)), base_name="tiny", trainable=False)
    again, merged = logits(tuned), logits(used)
    return (again - before).abs().max().item(), (merged - before).abs().max().item()


def _router(module: PreTrainedModel) -> tuple[float, float] | None:
    """On one sequence of which all is learned; the model is left in evaluation mode."""
    if not hasattr(module, "router_aux_loss_coef"):
        return None
    ids = np.arange(3, 12, dtype=np.int32)
    batch = pack([Encoded(ids, ids.copy())])
    policy = Policy(module, 1.0)
    module.train()
    losses = policy.token_losses(batch)
    extra = losses + policy.token_logprobs(batch)
    module.eval()
    own = module(input_ids=batch.ids_BT, use_cache=False, output_router_logits=True).aux_loss
    assert extra[0, 0] == 0
    return own.item(), extra[0, 1:].mean().item()
