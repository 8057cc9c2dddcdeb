"""Embeddings that grow with the tokenizer, with sensible first values for the new rows.

Does not know the tokenizer's format.

Axes: V vocabulary, D width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hone import log

MULTIPLE = 64


@torch.no_grad()
def resize_vocab(
    module: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    noise: float = 1.0,
    descriptions: Mapping[str, str] | None = None,
) -> bool:
    """Grow input and output embeddings to the tokenizer's size, rounded up to a multiple of 64; False where it fits already.

    New rows are the mean of the old ones plus noise / sqrt(D) times a normal draw from torch's generator. descriptions: for a
    new token, text whose own embeddings' mean is used in place of all rows'. The grown modules' names are left on the module as
    `resized_modules`, so that an adapter trains and saves them whole.
    """
    old = module.get_input_embeddings().weight.shape[0]
    grown = grow(module, tokenizer)
    for layer in grown:
        _fill(layer, old, noise)
        _describe(layer.weight, tokenizer, descriptions or {}, noise)
    if grown:
        log.info(f"the vocabulary grew from {old} to {len(grown[0].weight)} rows; new rows start at the mean of the old ones")
    return bool(grown)


def grow(module: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[nn.Module]:
    """Give the embeddings rows for the tokenizer's ids, without values yet; returns the grown modules, none where all fit."""
    if len(tokenizer) <= module.get_input_embeddings().weight.shape[0]:
        return []
    module.resize_token_embeddings(math.ceil(len(tokenizer) / MULTIPLE) * MULTIPLE, mean_resizing=False)
    grown = [module.get_input_embeddings()]
    head = module.get_output_embeddings()
    if head is not None and head.weight is not grown[0].weight:
        grown.append(head)
    module.resized_modules = tuple(_last_name(module, layer) for layer in grown)
    return grown


def _fill(layer: nn.Module, old: int, noise: float) -> None:
    rows_VD = layer.weight
    mean_D = rows_VD[:old].float().mean(0)
    rows_VD[old:] = (mean_D + _draw(rows_VD[old:], noise)).to(rows_VD.dtype)
    if isinstance(layer, nn.Linear) and layer.bias is not None:
        layer.bias[old:] = layer.bias[:old].mean()


def _describe(rows_VD: Tensor, tokenizer: PreTrainedTokenizerBase, descriptions: Mapping[str, str], noise: float) -> None:
    for token, text in descriptions.items():
        own = tokenizer.convert_tokens_to_ids(token)
        ids = [number for number in tokenizer.encode(text, add_special_tokens=False) if number != own]
        mean_D = rows_VD[torch.tensor(ids, device=rows_VD.device)].float().mean(0)
        rows_VD[own] = (mean_D + _draw(rows_VD[own], noise)).to(rows_VD.dtype)


def _draw(like: Tensor, noise: float) -> Tensor:
    return torch.randn(like.shape, device=like.device) * (noise / math.sqrt(like.shape[-1]))


def _last_name(module: nn.Module, wanted: nn.Module) -> str:
    return next(name for name, inner in module.named_modules() if inner is wanted).rpartition(".")[-1]
