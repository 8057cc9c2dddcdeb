"""Policy: the model as objectives see it, giving the log-prob of each label token without forming all logits.

Does not know the loss, the data's rooms or the optimizer; a batch is any object with the four tensors named here.

Axes: B row, T token, N trained token, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hone import log
from hone.errors import ModelError
from hone.kernels import distribution
from hone.kernels.distribution import Measure
from hone.kernels.token_logprobs import LogitMap, of_logits
from hone.models.attention_packed import laid_out, layout_of, name_eager, why_own
from hone.models.context import Context, Spread, part_of
from hone.models.media.families import family_of
from hone.models.media.sight import Sight
from hone.models.quirks import logit_map_of, packed_mask, padded_only
from hone.models.router import RouterTap, choose_coefficient
from hone.models.selftest import SelfTest, compare, cutting_differs, sharing_differs
from hone.models.sharing import shared_mask, unshared
from hone.models.tap import IGNORE, Head, HeadTap, at_labels, following, output_head, predicting, rows_at_labels
from hone.models.value_head import ValueHead, value_head_of

if TYPE_CHECKING:
    from hone.models.reference import Reference


Packing = Literal["padded", "packed", "shared"]
"""Layouts of a batch: a row a sequence; sequences end to end in one row; and there what they have in common once."""


class TokenBatch(Protocol):
    """Encoded sequences as tensors. ids_BT, labels_BT (IGNORE where nothing is learned), positions_BT: int64.

    segments_BT: int32, 1, 2, ... for the sequences of a row, 0 for padding, below 0 for a beginning that those after it have in
    common, until positions start again at 0. Labels are not shifted. known: the same batch where it can be looked at without
    waiting for a device. shown: tensors of the media of each sequence in order, by the forward's names; () where there are none,
    None for ids that mean nothing.
    """

    @property
    def ids_BT(self) -> Tensor: ...
    @property
    def labels_BT(self) -> Tensor: ...
    @property
    def positions_BT(self) -> Tensor: ...
    @property
    def segments_BT(self) -> Tensor: ...
    @property
    def known(self) -> TokenBatch: ...
    @property
    def shown(self) -> Sequence[Mapping[str, Tensor]] | None: ...


def find_causal(module: nn.Module) -> PreTrainedModel:
    """The language model inside `module`, whatever wraps it (PEFT, DDP); ModelError where there is none."""
    for inner in module.modules():
        if isinstance(inner, PreTrainedModel):
            return inner
    raise ModelError(f"{type(module).__name__} holds no transformers model; a policy needs one")


class Policy:
    """`Policy(module).token_logprobs(batch)`; module: a causal model, also wrapped in PEFT or DDP.

    shows_media: False where no batch has any, which lets some models pack that else could not.
    router_loss: what the balance loss of a mixture of experts is multiplied by; None takes what the model's config says.
    can_pack: False where sequences laid end to end would attend to each other; then give it padded batches.
    by_sequence: True where the sequences of a packed row attend each by itself, without a mask of the whole row.
    can_share: True where a beginning may stand in a packed row once for several sequences. Found by `test_sharing`.
    temperature: what logits are divided by: log-probs are of the distribution that tokens are drawn from at that temperature.
    reference: what it is held against, given by whoever has it ready. context: the processes that a packed row is cut over;
    all of them call with the same batch, and have the same numbers of all of it.
    fast: False where the model's own forward cannot be tapped; then all logits are formed. Both are found by `self_test`.
    """

    def __init__(self, module: nn.Module, router_loss: float | None = None, *, shows_media: bool = True):
        self.module = module
        self.causal = find_causal(module)
        self._sight = Sight.of(self.causal, shows_media=shows_media)
        self.can_pack = not self._padded_only
        name_eager(self.causal)
        self.by_sequence = not why_own(self.causal)
        self.can_share = False
        family = family_of(self.causal.config)
        self.fast = output_head(self.causal) is not None and not (family is not None and family.own_loss)
        self.logit_map: LogitMap = logit_map_of(self.causal.config)
        self.temperature = 1.0
        self.reference: Reference | None = None
        self.context: Context | None = None
        self.router_loss = choose_coefficient(self.causal, router_loss)
        self._adds_router_loss = hasattr(self.causal, "router_aux_loss_coef")
        if self.router_loss:
            log.once(f"{self._name()}: the router's balance loss is learned too, times {self.router_loss:g}")

    @property
    def packing(self) -> Packing:
        """How its batches are best laid out."""
        if not self.can_pack:
            return "padded"
        return "shared" if self.can_share else "packed"

    def token_logprobs(self, batch: TokenBatch) -> Tensor:
        """fp32 [B, T]: log-prob of labels_BT[b, t] given the tokens before t, 0 where the label is IGNORE; with gradient.

        Raises ModelError when gradients are on, the module trains and none would flow.
        """
        return self._logprobs(batch, alike=False)

    def _logprobs(self, batch: TokenBatch, *, alike: bool) -> Tensor:
        """alike: all are expected to get one gradient."""
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

        Made for a loss that is their sum; any other has the same gradients, later.
        """
        with self.balance(batch) as balance:
            losses_BT = -self._logprobs(batch, alike=True)
        return losses_BT + balance().to(losses_BT.device)

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

    def self_test(self) -> SelfTest:
        """Compare tapped with plain and packed with apart on two short sequences (no gradient), and keep what was found.

        On several processes call it on all of them. What fell back is said once.
        """
        with evaluating(self):
            found = self._isolated()
        known = self._padded_only
        if not found.fast:
            log.once(f"{self._name()}: all logits are formed (its own forward cannot be tapped: {found.why}); slower, same loss")
        if known or not found.can_pack:
            log.once(f"{self._name()}: packed sequences would see each other ({known or found.why_mixed}); batches are padded")
        self.fast, self.can_pack = found.fast, found.can_pack and not known
        return found

    def _isolated(self) -> SelfTest:
        """The self-test with sequences that attend each by itself; where that is not the same, with transformers' attention."""
        why = why_own(self.causal)
        if self.by_sequence:
            found = compare(self)
            if found.can_pack:
                return found
            why, self.by_sequence = found.why_mixed, False
        found = compare(self)
        if found.can_pack and "flash" not in self.causal.config.get_text_config()._attn_implementation:
            log.once(f"{self._name()}: packed rows make a mask of all tokens by all ({why}); slower, same loss")
        return found

    def test_sharing(self) -> None:
        """After `self_test`: see whether sequences that begin alike are the same where the beginning stands once."""
        why = "its sequences are not packed" if not self.can_pack else unshared(self.causal.config)
        if self._sight is not None:
            why = why or "what they begin with may be a picture"
        if self.router_loss:
            why = "the router's balance loss is one of whole sequences"
        if not why:
            with evaluating(self):
                why = sharing_differs(self)
        if why:
            log.once(f"{self._name()}: what sequences have in common is computed for each ({why})")
        self.can_share = not why

    def cut_over(self, context: Context) -> None:
        """After `self_test`, on all processes: each packed row is cut over those of `context` from now on.

        Raises ModelError where this family cannot be cut, or computes other numbers then.
        """
        why = "" if self.fast else "its forward cannot be tapped"
        why = why or ("" if self.can_pack and self.by_sequence else "its attention is not hone's own of packed rows")
        why = why or ("" if self._sight is None else "the tokens of a picture or a sound must lie on one process")
        why = why or ("its router is balanced over whole sequences: write moe_aux_loss_coef: 0" if self.router_loss else "")
        stretched = (getattr(self.causal.config.get_text_config(), "rope_parameters", None) or {}).get("rope_type")
        why = why or (f"its positions go by the length of a row ({stretched})" if stretched in ("dynamic", "longrope") else "")
        if not why:
            with evaluating(self):
                why = cutting_differs(self, context)
        if why:
            raise ModelError(
                f"context_parallel_size: rows of {self._name()} cannot be cut over processes ({why}); write another number, or "
                "leave it out"
            )
        self.context = context

    def _name(self) -> str:
        return type(self.causal).__name__

    @property
    def _padded_only(self) -> str:
        """Why its batches are padded whatever a self-test says; "" where it decides."""
        both_ways = "" if self._lies_packed else "the tokens of a picture attend to those after them"
        return padded_only(self.causal.config) or both_ways

    @property
    def _lies_packed(self) -> bool:
        return self._sight is None or self._sight.packs

    def _inputs(self, batch: TokenBatch) -> dict[str, Any]:
        """One row is packed: positions that start again isolate its sequences, only without a mask and without a cache."""
        inputs: dict[str, Any] = {
            "input_ids": batch.ids_BT,
            "position_ids": batch.positions_BT,
            "use_cache": False,
        }
        if self._sight is not None:
            known = batch.known
            if known.shown is not None:
                self._sight.require(known.ids_BT, known.shown)
            places = self._sight.places(known.ids_BT, known.segments_BT, known.positions_BT, known.shown or ())
            inputs |= {"position_ids": places.to(batch.ids_BT.device), **self._sight.inputs(batch.ids_BT, batch.shown or ())}
        if not self._is_packed(batch):
            inputs["attention_mask"] = (batch.segments_BT != 0).long()
        elif self.by_sequence:
            inputs["attention_mask"] = None
        elif bool((batch.known.segments_BT < 0).any()):
            inputs["attention_mask"] = shared_mask(self.causal, batch.segments_BT, batch.positions_BT)
        else:
            inputs["attention_mask"] = packed_mask(self.causal, batch.positions_BT)
        if self._adds_router_loss:
            inputs["output_router_logits"] = False  # its own balance loss is one of the whole micro-batch, added to a mean
        return inputs

    def _is_packed(self, batch: TokenBatch) -> bool:
        lies_packed = self._lies_packed or not any(batch.shown or ())
        return lies_packed and batch.ids_BT.shape[0] == 1

    def _forward(self, batch: TokenBatch, **more: Any) -> Any:
        """The model's own output. A packed row's layout holds for this forward, and where a layer of it is computed again."""
        by_sequence = self.by_sequence and self._is_packed(batch)
        with laid_out(layout_of(batch.known.segments_BT, batch.known.positions_BT) if by_sequence else None):
            return self.module(**self._inputs(batch), **more)

    def _tapped(self, batch: TokenBatch, *, alike: bool = False) -> Tensor:
        head = Head(self.causal, self.logit_map.at(self.temperature), alike=alike)
        if self.context is not None:
            next_BT = following(batch.labels_BT)  # before the row is cut: the last token of a part predicts the next part's first
            mine_Bt = self.context.part(next_BT, IGNORE)
            mine_n = mine_Bt[mine_Bt != IGNORE]
            found_N = self._read_part(batch, next_BT != IGNORE, lambda hidden_ND: head.logprobs(hidden_ND, mine_n))
            return at_labels(found_N, batch.labels_BT)
        return self._read(batch, lambda hidden_BTD: head.label_logprobs(hidden_BTD, batch.labels_BT.to(hidden_BTD.device)))

    def _read(self, batch: TokenBatch, read: Callable[[Tensor], Tensor]) -> Tensor:
        """What `read` makes of the hidden states [B, T, D] that the output head sees, inside the model's own forward."""
        with HeadTap(self.causal, batch.labels_BT.shape, read) as tap:
            output = self._forward(batch, labels=batch.labels_BT)
        return tap.collect(output.loss)

    def _read_part(self, batch: TokenBatch, where_BT: Tensor, read: Callable[[Tensor], Tensor]) -> Tensor:
        """[N, ...]: what `read` makes of each part's hidden states [n, D] where `where_BT` is true, of all parts."""
        assert self.context is not None and self._is_packed(batch), "a part of a row that is not packed"
        part, mine_Bt = part_of(batch, self.context, IGNORE), self.context.part(where_BT, False)
        layout = self.context.filled(layout_of(batch.known.segments_BT, batch.known.positions_BT))
        inputs = {"input_ids": part.ids_BT, "position_ids": part.positions_BT, "labels": part.labels_BT}
        with (
            HeadTap(self.causal, part.ids_BT.shape, lambda hidden_BtD: read(hidden_BtD[mine_Bt])) as tap,
            laid_out(Spread(layout, self.context)),
        ):
            output = self.module(**inputs, attention_mask=None, use_cache=False)
        return self.context.gathered(tap.collect(output.loss), where_BT)

    def _plain(self, batch: TokenBatch) -> Tensor:
        next_BT = following(batch.labels_BT)
        return at_labels(of_logits(self._plain_logits(batch), next_BT[next_BT != IGNORE]), batch.labels_BT)

    def _plain_logits(self, batch: TokenBatch) -> Tensor:
        """fp32 [N, V]: the model's own logits before each label."""
        return self._forward(batch).logits[predicting(batch.labels_BT)].float() / self.temperature

    def _plain_hidden(self, batch: TokenBatch) -> Tensor:
        return self._forward(batch, output_hidden_states=True).hidden_states[-1]


@contextmanager
def evaluating(policy: Policy) -> Iterator[None]:
    """Evaluation mode, and afterwards the mode of every module as it was."""
    modes = {module: module.training for module in policy.module.modules()}
    policy.module.eval()
    try:
        yield
    finally:
        for module, was in modes.items():
            module.training = was


def _require_first_ignored(batch: TokenBatch) -> None:
    assert bool((batch.known.labels_BT[:, 0] == IGNORE).all()), "the first label of a row has nothing before it"
