"""The losses of an objective are their formula on all logits, value and gradient, in any layout, with any head.

Tolerance as in test_policy: 1e-4 of the largest. The formulas themselves are tried by hand in test_sft_losses.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from hone.adapters.apply import attach
from hone.chat.encoded import IGNORE, Encoded
from hone.config.adapter import Lora
from hone.config.objective import Distill as DistillConfig
from hone.config.objective import Pretrain as PretrainConfig
from hone.config.objective import Sft as SftConfig
from hone.data.batch import pack, pad
from hone.kernels import distribution
from hone.models.policy import Policy
from hone.models.reference import Reference
from hone.objectives.distill import Distill
from hone.objectives.pretrain import Pretrain
from hone.objectives.sft import Sft
from tests.architectures import gradients, sequences
from tests.families import VOCAB, tiny
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


def teach(now: Tensor, its: Tensor, kind: str) -> Tensor:
    """The divergence of two sets of log-probs, written as textbooks do."""
    p, q = its.exp(), now.exp()
    if kind == "forward_kl":
        return (p * (p / q).log()).sum(-1)
    if kind == "reverse_kl":
        return (q * (q / p).log()).sum(-1)
    m = 0.3 * p + 0.7 * q
    return 0.3 * (p * (p / m).log()).sum(-1) + 0.7 * (q * (q / m).log()).sum(-1)


def lump(logprobs: Tensor, its: Tensor, num: int) -> Tensor:
    """The `num` words that are likeliest in `its`, and the rest as one."""
    chosen = its.topk(num).indices
    few = logprobs.exp().gather(-1, chosen)
    return torch.cat([few, 1 - few.sum(-1, keepdim=True)], -1).log()


@pytest.mark.parametrize("layout", [pack, partial(pad, pad_id=0)], ids=["packed", "padded"])
@pytest.mark.parametrize("head", ADAPTERS)
@pytest.mark.parametrize("top", [None, 5])
@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "js"])
def test_distillation_is_the_formula_on_all_logits(kind, top, head, layout):
    """The teacher is wider and its head padded beyond the tokenizer: ids that the student lacks are left out on both sides."""
    settings = {"distill_loss": kind, "distill_top_k": top, "distill_temperature": 2.0, "distill_ce_weight": 0.25}
    objective = Distill(DistillConfig(**settings, distill_beta=0.3))
    torch.manual_seed(1)
    teacher, parts = tiny("llama", hidden_size=48, vocab_size=VOCAB + 8), sequences()
    module = attach(tiny("llama", tie_word_embeddings=False), ADAPTERS[head], base_name="tiny").train()
    perturb(module)
    policy = Policy(module)
    policy.reference = Reference(Policy(teacher))
    with torch.no_grad():
        its = (joined(rows_of(teacher, parts))[0][:, :VOCAB] / 2).log_softmax(-1)
    rows = rows_of(module, parts)
    logits, labels = joined(rows)
    now = (logits / 2).log_softmax(-1)
    apart = teach(lump(now, its, top), lump(its, its, top), kind) if top else teach(now, its, kind)
    plain = functional.cross_entropy(logits, labels, reduction="none")
    wanted = (0.75 * 4 * apart + 0.25 * plain).sum()
    loss = objective.loss(policy, layout(parts))
    assert loss.total.item() == pytest.approx(wanted.item(), rel=1e-4)
    assert loss.metrics["nll_loss"][0].item() == pytest.approx(plain.sum().item(), rel=1e-4)
    assert loss.metrics["distill_loss"][0].item() == pytest.approx(apart.sum().item(), rel=1e-4)
    theirs, ours = gradients(module, wanted), gradients(module, loss.total)
    largest = max(gradient.abs().max().item() for gradient in theirs.values())
    for weight, gradient in theirs.items():
        assert (ours[weight] - gradient).abs().max().item() <= 1e-4 * largest, weight
    assert all(weight.grad is None for weight in teacher.parameters())
    module.eval()
    with torch.no_grad():
        assert objective.loss(policy, layout(parts)).total.item() == pytest.approx(wanted.item(), rel=1e-4), "evaluation too"


def test_a_student_like_its_teacher_has_nothing_to_learn():
    module, batch = tiny("llama").train(), pack(sequences())
    policy = Policy(module)
    policy.reference = Reference(Policy(tiny("llama")))
    total = Distill(DistillConfig()).loss(policy, batch).total
    assert abs(total.item()) < 1e-5
    assert max(gradient.abs().max() for gradient in gradients(module, total).values()) < 1e-6


def test_no_tensor_of_all_logits_of_either_is_made():
    """64 learned tokens of 5,000 ids and chunks of a tenth of them: neither all of the student's nor all of the teacher's."""
    student, teacher = tiny("llama", vocab_size=5000), tiny("llama", vocab_size=5000)
    ids = np.arange(65, dtype=np.int32)
    policy, largest = Policy(student.train()), 0
    policy.reference = Reference(Policy(teacher))

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            largest = max(largest, out.numel()) if isinstance(out, Tensor) else largest
            return out

    small = partial(distribution.chunked, chunk_elements=32_000)
    with pytest.MonkeyPatch.context() as patch, Watch():
        patch.setattr(distribution, "chunked", small)
        Distill(DistillConfig(distill_top_k=9)).loss(policy, pack([Encoded(ids, ids.copy())])).total.backward()
    assert largest <= 5000 * 32, "a weight of 5,000 x 32 is the largest; all logits are 5,000 x 64"


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
