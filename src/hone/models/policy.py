"""Policy: the model as objectives see it, giving the log-prob of each label token without forming all logits.

Does not know the loss, the data's rooms or the optimizer, nor how a batch goes through the model (forward).

Axes: B row, T token, N trained token, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from hone import log
from hone.errors import ModelError
from hone.kernels import distribution
from hone.kernels.distribution import Measure
from hone.kernels.token_logprobs import LogitMap, of_logits
from hone.models import layouts
from hone.models.context import Context
from hone.models.forward import Forward, TokenBatch
from hone.models.media.families import family_of
from hone.models.quirks import logit_map_of
from hone.models.router import RouterTap, choose_coefficient
from hone.models.selftest import SelfTest
from hone.models.tap import IGNORE, Head, at_labels, following, output_head, predicting, rows_at_labels
from hone.models.value_head import ValueHead, value_head_of

if TYPE_CHECKING:
    from hone.models.reference import Reference


class Policy(Forward):
    """`Policy(module).token_logprobs(batch)`; module: a causal model, also wrapped in PEFT or DDP.

    router_loss: what the balance loss of a mixture of experts is multiplied by; None takes what the model's config says.
    temperature: what logits are divided by: log-probs are of the distribution that tokens are drawn from at that temperature.
    reference: what it is held against, given by whoever has it ready.
    fast: False where the model's own forward cannot be tapped; then all logits are formed. Found by `self_test`.
    """

    def __init__(self, module: nn.Module, router_loss: float | None = None, *, shows_media: bool = True):
        super().__init__(module, shows_media=shows_media)
        family = family_of(self.causal.config)
        self.fast = output_head(self.causal) is not None and not (family is not None and family.own_loss)
        self.logit_map: LogitMap = logit_map_of(self.causal.config)
        self.temperature = 1.0
        self.reference: Reference | None = None
        self.router_loss = choose_coefficient(self.causal, router_loss)
        if self.router_loss:
            log.once(f"{self.name}: the router's balance loss is learned too, times {self.router_loss:g}")

    def token_logprobs(self, batch: TokenBatch, *, alike: bool = False) -> Tensor:
        """fp32 [B, T]: log-prob of labels_BT[b, t] given the tokens before t, 0 where the label is IGNORE; with gradient.

        alike: all are expected to get one gradient, as those of a plain sum do; any other is right too, and takes longer.
        Raises ModelError when gradients are on, the module trains and none would flow.
        """
        _require_first_ignored(batch)
        return self._checked(self._tapped(batch, alike=alike) if self.fast else self._plain(batch))

    def measured(self, batch: TokenBatch, measure: Measure) -> Tensor:
        """fp32 [M, B, T]: at each label what `measure` makes of the distribution that predicts it, 0 where the label is IGNORE.

        Only the first row has a gradient. measure sees the N labels' distributions in order, a slice of them at a time.
        """
        _require_first_ignored(batch)
        if not self.fast:
            numbers_MN = distribution.of_logits(self._plain_logits(batch), measure)
            return self._checked(rows_at_labels(numbers_MN, batch.labels_BT))
        head = Head(self.causal, self.logit_map.at(self.temperature))
        if self.context is not None:
            where_BT = predicting(batch.labels_BT)
            first = self.context.first(where_BT)

            def moved(logits_nV: Tensor, part: slice) -> Tensor:
                return measure(logits_nV, slice(part.start + first, part.stop + first))

            numbers_NM = self._read_part(batch, where_BT, lambda hidden_ND: head.measure(hidden_ND, moved).T)
            return self._checked(rows_at_labels(numbers_NM.T, batch.labels_BT))

        def read(hidden_BTD: Tensor) -> Tensor:
            return head.label_measures(hidden_BTD, batch.labels_BT.to(hidden_BTD.device), measure)

        return self._checked(self._read(batch, read))

    def label_logits(self, batch: TokenBatch) -> Callable[[slice], Tensor]:
        """The distributions that predict the N labels, in order: a function from a slice of them to fp32 mapped logits [n, V].

        The hidden states are computed now, the logits when they are asked for; where the forward cannot be tapped, all now.
        """
        if not self.fast:
            logits_NV = self._plain_logits(batch)
            return lambda part: logits_NV[part]
        head = Head(self.causal, self.logit_map.at(self.temperature))
        hidden_ND = self.hidden(batch, predicting(batch.labels_BT))
        return lambda part: head.logits(hidden_ND[part])

    def values(self, batch: TokenBatch) -> Tensor:
        """fp32 [B, T]: the value head's number at every token, of the text up to and with it; with gradient."""
        head = self._value_head()
        return self._checked(self._read(batch, head) if self.fast else head(self._plain_hidden(batch)))

    def scores(self, batch: TokenBatch, where_BT: Tensor) -> Tensor:
        """fp32 [N]: the value head's number where `where_BT` is true, N tokens in order; of the others it sees nothing."""
        head = self._value_head()
        if not self.fast:
            return self._checked(head(self._plain_hidden(batch)[where_BT]))
        return self._checked(self._read(batch, lambda hidden_BTD: head(hidden_BTD[where_BT.to(hidden_BTD.device)])))

    @property
    def scores_texts(self) -> bool:
        """Whether its head scores whole texts, so that it has `label_scores` and nothing else."""
        return self.fast and self.causal.get_output_embeddings() is None

    def label_scores(self, batch: TokenBatch, where_BT: Tensor) -> Tensor:
        """fp32 [N, C]: the numbers of the head that scores texts where `where_BT` is true, N tokens in order; with gradient."""
        head = output_head(self.causal)
        assert head is not None and self.scores_texts, "scores of labels of a model that writes"
        project, dtype = head.forward, [*head.parameters()][-1].dtype  # the copy that an adapter trains comes last

        def read(hidden_BTD: Tensor) -> Tensor:
            hidden_ND = hidden_BTD[where_BT.to(hidden_BTD.device)]
            with torch.autocast(hidden_BTD.device.type, enabled=False):
                return project(hidden_ND.to(dtype)).float()

        return self._checked(self._read(batch, read))

    def logprobs_and_values(self, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """`token_logprobs` and `values` of one forward."""
        _require_first_ignored(batch)
        values_of = self._value_head()
        if not self.fast:
            return self._checked(self._plain(batch)), values_of(self._plain_hidden(batch))
        head = Head(self.causal, self.logit_map.at(self.temperature))

        def read(hidden_BTD: Tensor) -> Tensor:
            labels_BT = batch.labels_BT.to(hidden_BTD.device)
            return torch.stack([head.label_logprobs(hidden_BTD, labels_BT), values_of(hidden_BTD)])

        logprobs_BT, values_BT = self._checked(self._read(batch, read))
        return logprobs_BT, values_BT

    def hidden(self, batch: TokenBatch, where_BT: Tensor) -> Tensor:
        """[N, D]: what the output head sees where `where_BT` is true, N tokens in order, in its own type; with gradient."""
        if not self.fast:
            return self._checked(self._plain_hidden(batch)[where_BT])
        if self.context is not None:
            return self._checked(self._read_part(batch, where_BT, lambda hidden_ND: hidden_ND))
        return self._checked(self._read(batch, lambda hidden_BTD: hidden_BTD[where_BT.to(hidden_BTD.device)]))

    def _checked(self, found: Tensor) -> Tensor:
        if torch.is_grad_enabled() and self.module.training and not found.requires_grad:
            raise ModelError(
                "no gradient reaches the trained weights: no weight is trainable, or the quantised base cuts the gradient; "
                "attach an adapter, or load the base with another quantization_method or without one"
            )
        return found

    def _value_head(self) -> ValueHead:
        head = value_head_of(self.causal)
        assert head is not None, "values of a model without a value head"
        return head

    def token_losses(self, batch: TokenBatch) -> Tensor:
        """fp32 [B, T]: minus the log-prob of each trained token, 0 elsewhere; with gradient. In training with `balance`.

        For a loss that is their sum.
        """
        with self.balance(batch) as balance:
            losses_BT = -self.token_logprobs(batch, alike=True)
        return losses_BT + balance().to(losses_BT.device)

    def self_test(self) -> SelfTest:
        """Compare tapped with plain and packed with apart on two short sequences (no gradient), and keep what was found.

        On several processes call it on all of them. What fell back is said once.
        """
        return layouts.settle(self)

    def test_sharing(self) -> None:
        """After `self_test`: see whether sequences that begin alike are the same where the beginning stands once."""
        layouts.settle_sharing(self)

    def cut_over(self, context: Context) -> None:
        """After `self_test`, on all processes: each packed row is cut over those of `context` from now on.

        Raises ModelError where this family cannot be cut, or computes other numbers then.
        """
        layouts.cut_over(self, context)

    @contextmanager
    def balance(self, batch: TokenBatch) -> Iterator[Callable[[], Tensor]]:
        """Watches one forward of `batch` and then gives its router's balance losses, times `router_loss`.

        fp32 [B, T] with gradient: each trained token bears its sequence's loss; summed over a step and divided by its trained
        tokens it is the mean over the sequences by their trained tokens, however they are laid out. A 0 where there is none.
        """
        if not (self.router_loss and self.module.training):
            yield lambda: torch.zeros(())
            return
        with RouterTap(self.causal) as tap:
            yield lambda: self.router_loss * tap.balance(batch.segments_BT, batch.labels_BT)

    def _tapped(self, batch: TokenBatch, *, alike: bool = False) -> Tensor:
        head = Head(self.causal, self.logit_map.at(self.temperature), alike=alike)
        if self.context is not None:
            next_BT = following(batch.labels_BT)  # before the row is cut: the last token of a part predicts the next part's first
            mine_Bt = self.context.part(next_BT, IGNORE)
            mine_n = mine_Bt[mine_Bt != IGNORE]
            found_N = self._read_part(batch, next_BT != IGNORE, lambda hidden_ND: head.logprobs(hidden_ND, mine_n))
            return at_labels(found_N, batch.labels_BT)
        return self._read(batch, lambda hidden_BTD: head.label_logprobs(hidden_BTD, batch.labels_BT.to(hidden_BTD.device)))

    def _plain(self, batch: TokenBatch) -> Tensor:
        next_BT = following(batch.labels_BT)
        return at_labels(of_logits(self._plain_logits(batch), next_BT[next_BT != IGNORE]), batch.labels_BT)

    def _plain_logits(self, batch: TokenBatch) -> Tensor:
        """fp32 [N, V]: the model's own logits before each label."""
        return self._forward(batch).logits[predicting(batch.labels_BT)].float() / self.temperature

    def _plain_hidden(self, batch: TokenBatch) -> Tensor:
        return self._forward(batch, output_hidden_states=True).hidden_states[-1]


def _require_first_ignored(batch: TokenBatch) -> None:
    assert bool((batch.known.labels_BT[:, 0] == IGNORE).all()), "the first label of a row has nothing before it"
