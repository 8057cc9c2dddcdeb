"""The router's balance loss of a mixture of experts, one value a sequence, from the logits its router modules give.

Does not know how the loss is divided nor what else is learned.

Axes: B row, T token, S sequence, E expert.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from hone.errors import ModelError
from hone.models.tap import IGNORE


def choose_coefficient(causal: PreTrainedModel, asked: float | None) -> float:
    """What the balance loss is multiplied by: what is asked, else what the model's config turns on, else 0.

    Raises ModelError where one is asked of a model that has no balance loss.
    """
    has_loss = hasattr(causal, "router_aux_loss_coef") and bool(_routers(causal))
    if asked and not has_loss:
        what = "balances its experts without a loss" if _routers(causal) else "has no experts to balance"
        raise ModelError(f"moe_aux_loss_coef: {asked:g}: {type(causal).__name__} {what}; leave it out")
    if asked is not None:
        return asked
    turned_on = causal.config.get_text_config().to_dict().get("output_router_logits")
    return float(causal.router_aux_loss_coef) if turned_on and has_loss else 0.0


class RouterTap:
    """Keeps the logits of every router of `causal` that one forward computes while it is held."""

    def __init__(self, causal: PreTrainedModel):
        self._routers = _routers(causal)
        self._top_k: int = causal.num_experts_per_tok
        self._logits: list[Tensor] = []
        self._hooks: list[RemovableHandle] = []

    def __enter__(self) -> RouterTap:
        self._hooks = [router.register_forward_hook(self._keeper(index)) for router, index in self._routers]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for hook in self._hooks:
            hook.remove()

    def balance(self, segments_BT: Tensor, labels_BT: Tensor) -> Tensor:
        """fp32 [B, T], at each trained token its sequence's balance loss, 0 elsewhere; see `balance_losses`."""
        losses_S, sequence_BT = balance_losses(self._logits, segments_BT, self._top_k)
        return torch.where(labels_BT != IGNORE, losses_S[sequence_BT], 0.0)

    def _keeper(self, index: int) -> Any:
        # Nothing is computed here: a recomputed layer must save the same tensors when it runs again without this hook.
        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            self._logits.append(output[index] if isinstance(output, tuple) else output)

        return keep


def balance_losses(logits: list[Tensor], segments_BT: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Balance loss of each sequence, fp32 [S], and the sequence of each token, int64 [B, T].

    E * sum over experts of (its share of the choices) * (its mean probability), both over the sequence's tokens in all layers:
    Fedus et al. 2021, eq. 4 to 6, as transformers computes it for a batch of one sequence. top_k when all is in balance.
    A sequence by itself, so that neither packing, padding nor the micro-batch changes it. logits: [B * T, E], one a layer.
    """
    num_experts, device = logits[0].shape[-1], logits[0].device
    segments_BT = segments_BT.to(device).long()
    per_row = int(segments_BT.max()) + 1
    sequence_BT = segments_BT + per_row * torch.arange(len(segments_BT), device=device).unsqueeze(1)
    sequences = sequence_BT.flatten()
    empty_SE = torch.zeros(per_row * len(segments_BT), num_experts, device=device)
    choices_SE, mass_SE = empty_SE, empty_SE
    for layer in logits:
        probs = functional.softmax(layer.reshape(-1, num_experts).to(device), dim=-1).float()
        chosen = functional.one_hot(probs.topk(top_k, dim=-1).indices, num_experts).sum(1).float()
        choices_SE = choices_SE.index_add(0, sequences, chosen)
        mass_SE = mass_SE.index_add(0, sequences, probs)
    tokens_S = len(logits) * torch.bincount(sequences, minlength=len(empty_SE)).clamp(min=1)
    return num_experts * (choices_SE * mass_SE).sum(-1) / tokens_S.square(), sequence_BT


def _routers(causal: PreTrainedModel) -> list[tuple[nn.Module, int]]:
    """The modules whose output transformers itself records as router logits, and where in their output these are."""
    found: dict[nn.Module, int] = {}
    for owner in causal.modules():
        records = getattr(type(owner), "_can_record_outputs", None) or {}
        recorder = records.get("router_logits") if isinstance(owner, PreTrainedModel) else None
        if recorder is not None and not isinstance(recorder, list | type):
            found |= {inner: recorder.index for inner in owner.modules() if isinstance(inner, recorder.target_class)}
    return list(found.items())
