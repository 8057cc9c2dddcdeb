"""Scorer: what a reward model thinks of conversations, through the same codec path that it was trained by.

Does not know how it was trained, nor where the scores go.

Axes: B row, T token, S sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from hone.adapters.apply import attach
from hone.adapters.folder import folders_of
from hone.chat.codec import Codec
from hone.chat.encoded import Encoded
from hone.chat.message import Conversation
from hone.config.adapter import Adapter
from hone.config.chat import ChatConfig
from hone.config.model import ModelConfig
from hone.data.batch import Batch, pack, pad
from hone.errors import ModelError
from hone.inference.build import choose_device, choose_dtype
from hone.inference.codec import load_codec
from hone.models.forward import find_causal
from hone.models.load import load_model
from hone.models.place import hub_name
from hone.models.policy import Policy
from hone.models.value_head import FILE, add_value_head, find_value_head

BATCH_TOKENS = 8192
"""Tokens that are read at once where a batch is of several conversations."""


class Scorer:
    """`Scorer(policy, codec).score([conversation])[0]`; the score is the value head's number at a conversation's last token.

    policy: in evaluation mode, with a value head. Batches are laid out so that no score depends on its neighbours.
    """

    def __init__(self, policy: Policy, codec: Codec):
        self.policy, self.codec = policy, codec

    @torch.inference_mode()
    def score(self, conversations: Sequence[Conversation]) -> list[float]:
        """A score for each conversation, in order; higher is better, and only scores of one question compare.

        Raises: TemplateError where one cannot be written; ModelError where one is longer than the model can hold.
        """
        return self._scores(self.codec.encode(conversations))

    @torch.inference_mode()
    def score_texts(self, texts: Sequence[str], *, limit: int | None = None) -> list[float]:
        """A score for each text that is a conversation as the format writes it, each cut at `limit` tokens.

        Raises: ModelError where one is empty, or longer than the model can hold; TemplateError where it is not valid Unicode.
        """
        encoded = self.codec.encode_written(texts, limit=limit)
        if empty := [number for number, one in enumerate(encoded) if not len(one)]:
            raise ModelError(f"text {empty[0]} is empty: there is nothing to score")
        return self._scores(encoded)

    def _scores(self, encoded: Sequence[Encoded]) -> list[float]:
        return read_all(self.policy, self.codec, encoded, lambda batch: self.policy.scores(batch, batch.ends_BT)).tolist()


def read_all(policy: Policy, codec: Codec, encoded: Sequence[Encoded], read: Callable[[Batch], Tensor]) -> Tensor:
    """On the CPU, [S, ...]: what `read` makes of each sequence, batch by batch; ModelError where one is too long."""
    require_fit(policy, encoded)
    rows: dict[int, Tensor] = {}
    for numbers in batches_of(list(map(len, encoded))):
        chosen = [encoded[number] for number in numbers]
        batch = pack(chosen) if policy.can_pack else pad(chosen, codec.tokenizer.pad_token_id)
        rows |= zip(numbers, read(batch.to(policy.causal.device)).cpu(), strict=True)
    return torch.stack([rows[number] for number in range(len(encoded))]) if rows else torch.zeros(0)


def require_fit(policy: Policy, encoded: Sequence[Encoded]) -> None:
    """Raise ModelError where a text is longer than the model can hold."""
    limit = policy.causal.config.get_text_config().to_dict().get("max_position_embeddings")
    for number, one in enumerate(encoded):
        if limit is not None and len(one) > limit:
            raise ModelError(
                f"text {number} has {len(one)} tokens and the model can hold {limit}: shorten it, or stretch the model with "
                "rope_scaling"
            )


def batches_of(lengths: list[int]) -> Iterator[list[int]]:
    """Numbers of sequences that fit into a batch together, the longest ones first, so that padding is short."""
    batch: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        if batch and lengths[batch[0]] * (len(batch) + 1) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def build_scorer(
    model: ModelConfig, chat: ChatConfig, adapter: Adapter, *, dtype: str = "auto", length: int | None = None
) -> Scorer:
    """A scorer out of the settings, as build_engine makes an engine: the head is the last adapter's, or else the model's own.

    Raises: ModelError where there is no value head, or something cannot be loaded or does not fit; TemplateError.
    """
    file = find_value_head(model, folders_of(adapter))
    if file is None:
        raise ModelError(
            f"{model.model_name_or_path} is no reward model: neither it nor its adapters have a {FILE}; train one with stage: rm"
        )
    codec = load_codec(model, chat)
    module = load_model(model, dtype=choose_dtype(model, dtype), device=choose_device(), for_training=False, length=length)
    module = attach(module, adapter, base_name=hub_name(model), trainable=False)
    add_value_head(find_causal(module), file)
    policy = Policy(module.eval(), 0.0)
    policy.self_test()
    return Scorer(policy, codec)
