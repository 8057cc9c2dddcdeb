"""HeadTap: while it is held, the model's own forward gives token log-probs in place of a loss, and forms no logits.

Does not know batches, packing or what the log-probs are for.

Axes: B row, T token, N trained token, D width, V vocabulary.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hone.errors import ModelError
from hone.kernels.token_logprobs import LogitMap, chunked, through

IGNORE = -100
"""The label of a token from which nothing is learned: Hugging Face's own."""


class Untapped(ModelError):
    """The model's forward does not pass through its head and its loss function in the usual way."""


class HeadTap:
    """Stands in for the output head and the loss function of `causal` during one forward.

    The head computes the log-probs of the trained positions (there, where sharded weights are whole) and hands logits of width 0
    through whatever the family does to its logits; the loss function hands the log-probs out, so that DDP sees them as an output.
    """

    def __init__(self, causal: PreTrainedModel, labels_BT: Tensor, logit_map: LogitMap):
        head = causal.get_output_embeddings()
        assert head is not None, "a model without an output head is not tapped"
        self._causal, self._head = causal, head
        self._labels_BT, self._logit_map = labels_BT, logit_map
        self._project = head.forward
        self._logprobs_BT: Tensor | None = None

    def __enter__(self) -> HeadTap:
        self._kept_forward = self._head.__dict__.get("forward")
        self._kept_loss = self._causal.__dict__.get("_loss_function")
        self._head.forward = self._stand_in_head
        self._causal.loss_function = self._stand_in_loss
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for owner, name, kept in ((self._head, "forward", self._kept_forward), (self._causal, "_loss_function", self._kept_loss)):
            if kept is None:
                owner.__dict__.pop(name)
            else:
                owner.__dict__[name] = kept

    def collect(self, loss: Tensor | None) -> Tensor:
        """The log-probs, fp32 [B, T], out of the forward's loss; Untapped where the forward went another way."""
        if self._logprobs_BT is None:
            raise Untapped("its output head is not called")
        if loss is None or loss.shape != self._labels_BT.shape:
            raise Untapped("its loss is not computed by loss_function")
        return loss

    def _stand_in_head(self, hidden_BTD: Tensor) -> Tensor:
        if hidden_BTD.shape[:-1] != self._labels_BT.shape:
            raise Untapped(f"its head sees {tuple(hidden_BTD.shape[:-1])} positions of {tuple(self._labels_BT.shape)}")
        labels_BT = self._labels_BT.to(hidden_BTD.device)
        next_BT = torch.cat([labels_BT[:, 1:], labels_BT.new_full((len(labels_BT), 1), IGNORE)], dim=1)
        trained_BT = next_BT != IGNORE
        logprobs_N = self._logprobs(hidden_BTD[trained_BT], next_BT[trained_BT])
        zeros_BT = torch.zeros(labels_BT.shape, dtype=torch.float32, device=hidden_BTD.device)
        self._logprobs_BT = zeros_BT.masked_scatter(labels_BT != IGNORE, logprobs_N)
        return hidden_BTD[..., :0]

    def _logprobs(self, hidden_ND: Tensor, ids_N: Tensor) -> Tensor:
        if type(self._head) is nn.Linear and not self._head._forward_hooks and not self._head._forward_pre_hooks:
            return chunked(hidden_ND, self._head.weight, self._head.bias, ids_N, self._logit_map)
        return through(self._project, hidden_ND, ids_N, self._causal.config.get_text_config().vocab_size, self._logit_map)

    def _stand_in_loss(self, *args: Any, **kwargs: Any) -> Tensor:
        if self._logprobs_BT is None:
            raise Untapped("its loss is computed before its output head is called")
        return self._logprobs_BT
