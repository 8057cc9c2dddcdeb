"""HeadTap: while it is held, the model's own forward gives what is read of its hidden states in place of a loss, and no logits.

Does not know batches, packing or what is read and what it is for.

Axes: B row, T token, N trained token, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hone.errors import ModelError
from hone.kernels import distribution
from hone.kernels.distribution import Measure
from hone.kernels.token_logprobs import LogitMap, chunked, through
from hone.models.score_head import NAME as SCORE

IGNORE = -100
"""The label of a token from which nothing is learned: Hugging Face's own."""


class Untapped(ModelError):
    """The model's forward does not pass through its head and its loss function in the usual way."""


class Head:
    """The output head of `causal` as it stands before a tap: hidden states to log-probs of chosen tokens, chunk by chunk.

    alike: all log-probs are expected to get one gradient, as those of a plain sum do.
    """

    def __init__(self, causal: PreTrainedModel, logit_map: LogitMap, *, alike: bool = False):
        head = causal.get_output_embeddings()
        assert head is not None, "a model without an output head is not tapped"
        self.module: nn.Module = head
        self.project: Callable[[Tensor], Tensor] = head.forward
        self.logit_map, self.alike = logit_map, alike
        self.num_ids: int = causal.config.get_text_config().vocab_size

    @property
    def is_linear(self) -> bool:
        """Whether it is nothing more than a linear layer, so that its weight may be used directly."""
        return type(self.module) is nn.Linear and not self.module._forward_hooks and not self.module._forward_pre_hooks

    def logprobs(self, hidden_ND: Tensor, ids_N: Tensor) -> Tensor:
        """fp32 [N]: the log-prob of ids_N given hidden_ND."""
        if self.is_linear:
            return chunked(hidden_ND, self.module.weight, self.module.bias, ids_N, self.logit_map, alike=self.alike)
        return through(self.project, hidden_ND, ids_N, self.num_ids, self.logit_map)

    def measure(self, hidden_ND: Tensor, measure: Measure) -> Tensor:
        """fp32 [M, N]: the numbers of `measure` of every position's distribution."""
        if self.is_linear:
            return distribution.chunked(hidden_ND, self.module.weight, self.module.bias, measure, self.logit_map)
        return distribution.through(self.project, hidden_ND, self.num_ids, measure, self.logit_map)

    def logits(self, hidden_nD: Tensor) -> Tensor:
        """fp32 [n, V]: the mapped logits of a few positions; under autocast it projects in its type."""
        own = next(self.module.parameters()).dtype
        return self.logit_map.apply(self.project(hidden_nD.to(own)).float())

    def label_logprobs(self, hidden_BTD: Tensor, labels_BT: Tensor) -> Tensor:
        """fp32 [B, T]: at each label its log-prob given the tokens before it, 0 where the label is IGNORE."""
        next_BT = following(labels_BT)
        trained_BT = next_BT != IGNORE
        logprobs_N = self.logprobs(hidden_BTD[trained_BT], next_BT[trained_BT])
        return at_labels(logprobs_N, labels_BT)

    def label_measures(self, hidden_BTD: Tensor, labels_BT: Tensor, measure: Measure) -> Tensor:
        """fp32 [M, B, T]: at each label the numbers of the distribution that predicts it, 0 where the label is IGNORE."""
        return rows_at_labels(self.measure(hidden_BTD[predicting(labels_BT)], measure), labels_BT)


def following(labels_BT: Tensor) -> Tensor:
    """int64 [B, T]: at each token the label of the next, IGNORE at the last: what its hidden state predicts."""
    return torch.cat([labels_BT[:, 1:], labels_BT.new_full((len(labels_BT), 1), IGNORE)], dim=1)


def predicting(labels_BT: Tensor) -> Tensor:
    """bool [B, T]: where the next token is learned. In order, these are the tokens before the labels."""
    return following(labels_BT) != IGNORE


def at_labels(values_N: Tensor, labels_BT: Tensor) -> Tensor:
    """fp32 [B, T]: values_N, in order, at the labels; 0 where the label is IGNORE."""
    zeros_BT = torch.zeros(labels_BT.shape, dtype=torch.float32, device=values_N.device)
    return zeros_BT.masked_scatter(labels_BT != IGNORE, values_N)


def rows_at_labels(numbers_MN: Tensor, labels_BT: Tensor) -> Tensor:
    """fp32 [M, B, T]: `at_labels` of each row."""
    return torch.stack([at_labels(row_N, labels_BT) for row_N in numbers_MN])


def output_head(causal: nn.Module) -> nn.Module | None:
    """What makes the model's last numbers: its head of words, or the one that scores whole texts; None where it has neither."""
    head = causal.get_output_embeddings()
    return causal._modules.get(SCORE) if head is None else head


class HeadTap:
    """Stands in for the output head and the loss function of `causal` during one forward.

    The head computes `read(hidden [B, T, D])` (there, where sharded weights are whole) and hands logits of width 0 through what
    the family does to its logits; the loss function hands out what was read, so that DDP sees it as an output.
    shape: (B, T) of the batch.
    """

    def __init__(self, causal: PreTrainedModel, shape: tuple[int, ...], read: Callable[[Tensor], Tensor]):
        head = output_head(causal)
        assert head is not None, "a model without an output head is not tapped"
        self._causal, self._head, self._shape, self._read = causal, head, tuple(shape), read
        self._found: Tensor | None = None

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
        """What was read, out of the forward's loss; Untapped where the forward went another way."""
        if self._found is None:
            raise Untapped("its output head is not called")
        if loss is None or loss.shape != self._found.shape:
            raise Untapped("its loss is not computed by loss_function")
        return loss

    def _stand_in_head(self, hidden_BTD: Tensor) -> Tensor:
        if hidden_BTD.shape[:-1] != self._shape:
            raise Untapped(f"its head sees {tuple(hidden_BTD.shape[:-1])} positions of {self._shape}")
        self._found = self._read(hidden_BTD)
        return hidden_BTD[..., :0]

    def _stand_in_loss(self, *args: Any, **kwargs: Any) -> Tensor:
        if self._found is None:
            raise Untapped("its loss is computed before its output head is called")
        return self._found
