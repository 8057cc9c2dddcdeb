"""The losses of an objective are their formula on all logits, value and gradient, in any layout, with any head.

Tolerance as in test_policy: 1e-4 of the largest. The formulas themselves are tried by hand in test_sft_losses.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from hone.adapters.apply import attach
from hone.chat.encoded import IGNORE, Encoded
from hone.config.adapter import Lora
from hone.config.objective import Pretrain as PretrainConfig
from hone.config.objective import Sft as SftConfig
from hone.data.batch import pack, pad
from hone.models.policy import Policy
from hone.models.reference import Reference
from hone.objectives.pretrain import Pretrain
from hone.objectives.sft import Sft
from tests.architectures import gradients, sequences
from tests.families import tiny
from tests.models.test_distributions import perturb

Rows = list[tuple[Tensor, Tensor]]
"""Logits and labels of the learned tokens of each sequence."""


def rows_of(module: nn.Module, parts: list[Encoded]) -> Rows:
    found = []
    for part in parts:
        labels = torch.as_tensor(part.labels[1:], dtype=torch.int64)
        logits = module(input_ids=torch.as_tensor(part.ids, dtype=torch.int64)[None], use_cache=False).logits[0, :-1].float()
        found.append((logits[labels != IGNORE], labels[labels != IGNORE]))
    return found


def joined(rows: Rows) -> tuple[Tensor, Tensor]:
    return torch.cat([logits for logits, _ in rows]), torch.cat([labels for _, labels in rows])


def dft_formula(rows: Rows, base: Rows) -> Tensor:
    losses = functional.cross_entropy(*joined(rows), reduction="none")
    return (losses * (-losses.detach()).exp()).sum()


def eaft_formula(rows: Rows, base: Rows) -> Tensor:
    logits, labels = joined(rows)
    top = logits.detach().topk(20).values.softmax(-1)
    weight = ((-(top * top.log()).sum(-1)) / 3) ** 0.7
    return (functional.cross_entropy(logits, labels, reduction="none") * weight).sum()


def asft_formula(rows: Rows, base: Rows) -> Tensor:
    before, now = joined(base)[0].log_softmax(-1), joined(rows)[0].log_softmax(-1)
    return dft_formula(rows, base) + 0.3 * functional.kl_div(now, before, log_target=True, reduction="sum")


def smoothed_formula(rows: Rows, base: Rows) -> Tensor:
    return functional.cross_entropy(*joined(rows), label_smoothing=0.2, reduction="sum")


CASES = {
    "dft": (Sft(SftConfig(sft_loss="dft")), dft_formula),
    "eaft": (Sft(SftConfig(sft_loss="eaft", eaft_alpha=0.7)), eaft_formula),
    "asft": (Sft(SftConfig(sft_loss="asft", asft_alpha=0.3)), asft_formula),
    "smoothed": (Sft(SftConfig(label_smoothing_factor=0.2)), smoothed_formula),
    "smoothed text": (Pretrain(PretrainConfig(label_smoothing_factor=0.2)), smoothed_formula),
}
ADAPTERS = {
    "frozen head": Lora(),
    "adapted head": Lora(lora_target=("q_proj", "lm_head")),
    "trained head": Lora(additional_target=("lm_head",)),
}


@pytest.mark.parametrize("layout", [pack, partial(pad, pad_id=0)], ids=["packed", "padded"])
@pytest.mark.parametrize("head", ADAPTERS)
@pytest.mark.parametrize("name", CASES)
def test_it_is_the_formula_on_all_logits(name, head, layout):
    objective, formula = CASES[name]
    module, parts = tiny("llama", tie_word_embeddings=False), sequences()
    with torch.no_grad():
        base = rows_of(module, parts)
    module = attach(module, ADAPTERS[head], base_name="tiny").train()
    perturb(module)
    policy = Policy(module)
    policy.reference = Reference(policy, module.disable_adapter)
    loss = objective.loss(policy, layout(parts))
    rows = rows_of(module, parts)
    wanted = formula(rows, base)
    assert loss.total.item() == pytest.approx(wanted.item(), rel=1e-4)
    plain = functional.cross_entropy(*joined(rows), reduction="sum")
    total, count = loss.metrics["nll_loss"]
    assert total.item() == pytest.approx(plain.item(), rel=1e-4) and not total.requires_grad
    assert count == sum(len(labels) for _, labels in rows)
    theirs, ours = gradients(module, wanted), gradients(module, loss.total)
    largest = max(gradient.abs().max().item() for gradient in theirs.values())
    for weight, gradient in theirs.items():
        assert (ours[weight] - gradient).abs().max().item() <= 1e-4 * largest, weight
    module.eval()
    assert objective.loss(policy, layout(parts)).total.item() == pytest.approx(plain.item(), rel=1e-4), "evaluation is plain"


@pytest.mark.parametrize("name", CASES)
def test_experts_bear_the_router_s_balance_too(name):
    objective, _ = CASES[name]
    module, batch = tiny("mixtral").train(), pack(sequences())
    with_router, without = Policy(module, 0.5), Policy(module, 0.0)
    plain = with_router.token_losses(batch).sum() + without.token_logprobs(batch).sum()
    totals = []
    for policy in (with_router, without):
        policy.reference = Reference(Policy(tiny("mixtral")))
        totals.append(objective.loss(policy, batch).total.item())
    assert plain.item() > 1
    assert totals[0] - totals[1] == pytest.approx(plain.item(), rel=1e-4)


def test_dft_of_an_unlikely_token_hardly_moves_the_model():
    """The gradient of a token's loss is that of the plain one times its probability."""
    module, batch = tiny("llama").train(), pack(sequences((5,)))
    batch.labels_BT[0, :-1] = IGNORE
    policy = Policy(module)
    probability = policy.token_logprobs(batch).sum().exp().item()
    plain = gradients(module, policy.token_losses(batch).sum())
    weighed = gradients(module, CASES["dft"][0].loss(policy, batch).total)
    for name, gradient in plain.items():
        assert torch.allclose(weighed[name], probability * gradient, atol=1e-7), name
