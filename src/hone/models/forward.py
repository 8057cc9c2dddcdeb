"""Forward: the model's own forward of a batch, padded or packed, whole or cut over processes, and what is read in it.

Does not know what is read of the hidden states, nor the loss; a batch is any object with the four tensors named here.

Axes: B row, T token, t token of a part of the row, N chosen token, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Protocol

from torch import Tensor, nn
from transformers import PreTrainedModel

from hone.errors import ModelError
from hone.models.attention_packed import laid_out, layout_of, name_eager, why_own
from hone.models.context import Context, Spread, part_of
from hone.models.media.sight import Sight
from hone.models.quirks import packed_mask, padded_only
from hone.models.sharing import shared_mask
from hone.models.tap import IGNORE, HeadTap

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


class Forward:
    """`module`: a causal model, also wrapped in PEFT or DDP; `causal`: the model itself.

    shows_media: False where no batch has any, which lets some models pack that else could not.
    can_pack: False where sequences laid end to end would attend to each other; then give it padded batches.
    by_sequence: True where the sequences of a packed row attend each by itself, without a mask of the whole row.
    can_share: True where a beginning may stand in a packed row once for several sequences.
    context: the processes that a packed row is cut over; all of them call with the same batch, and have the same numbers of
    all of it. All four are found at the start (models/layouts.py).
    """

    def __init__(self, module: nn.Module, *, shows_media: bool = True):
        self.module = module
        self.causal = find_causal(module)
        self._sight = Sight.of(self.causal, shows_media=shows_media)
        self.can_pack = not self.padded_only
        name_eager(self.causal)
        self.by_sequence = not why_own(self.causal)
        self.can_share = False
        self.context: Context | None = None

    @property
    def name(self) -> str:
        """Its class, for people."""
        return type(self.causal).__name__

    @property
    def packing(self) -> Packing:
        """How its batches are best laid out."""
        if not self.can_pack:
            return "padded"
        return "shared" if self.can_share else "packed"

    @property
    def takes_media(self) -> bool:
        """Whether its batches may bring pictures or sounds."""
        return self._sight is not None

    @property
    def padded_only(self) -> str:
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
        if hasattr(self.causal, "router_aux_loss_coef"):
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


def media_inputs(module: nn.Module, ids_BT: Tensor, shown: Sequence[Mapping[str, Tensor]]) -> dict[str, Any]:
    """What a plain forward or `generate` takes beside ids padded on the left: the tensors of all, in order, on their device."""
    sight = Sight.of(find_causal(module)) if any(shown) else None
    found = {} if sight is None else sight.inputs(ids_BT, shown)
    return {name: one.to(ids_BT.device) for name, one in found.items()}


@contextmanager
def evaluating(policy: Forward) -> Iterator[None]:
    """Evaluation mode, and afterwards the mode of every module as it was."""
    modes = {module: module.training for module in policy.module.modules()}
    policy.module.eval()
    try:
        yield
    finally:
        for module, was in modes.items():
            module.training = was
