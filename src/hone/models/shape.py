"""Shape: the sizes of a model, read from its config without loading a weight.

Does not know what the model will be used for.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedConfig

from hone.config.model import ModelConfig
from hone.models.attention_packed import keep_own, name_eager, why_own
from hone.models.embeddings import grow
from hone.models.load import auto_class, load_config
from hone.models.score_head import ScoreHead
from hone.models.tokenizer import load_tokenizer


@dataclass(frozen=True)
class Shape:
    """Widths in units, vocabulary in ids; where layers differ, the widest one's.

    cached: width of the keys and values, together, that a layer keeps of a token while answers are drawn. masked: whether a
    layer keeps a mask of all tokens by all.
    """

    num_layers: int
    hidden: int
    cached: int
    feed_forward: int
    vocabulary: int
    masked: bool


def meta_model(model: ModelConfig, head: ScoreHead | None = None) -> nn.Module:
    """The model with weights that have a shape and no memory (device "meta"), its vocabulary as large as it will be.

    head: as for load_model.
    """
    config = load_config(model, scores=head is not None)
    if head is not None:
        head.apply(config, load_tokenizer(model).pad_token_id)
    with torch.device("meta"):
        module = auto_class(head, config).from_config(config, trust_remote_code=model.trust_remote_code)
    if model.flash_attn in ("sdpa", "disabled"):
        keep_own(module)
    name_eager(module)
    if model.resize_vocab or model.add_tokens or model.add_special_tokens:
        grow(module, load_tokenizer(model))
    return module


def shape_of(module: nn.Module) -> Shape:
    """The sizes of a transformers model."""
    config = module.config.get_text_config()
    layers = list(config.per_layer_config) if getattr(config, "is_heterogeneous", False) else [config]
    return Shape(
        num_layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        cached=max(_cached(layer) for layer in layers),
        feed_forward=max(_feed_forward(layer) for layer in layers),
        vocabulary=config.vocab_size,
        masked=bool(why_own(module)),
    )


def _cached(layer: PreTrainedConfig) -> int:
    heads, width = getattr(layer, "num_attention_heads", None), getattr(layer, "head_dim", None)
    attention = heads * width if isinstance(heads, int) and isinstance(width, int) else layer.hidden_size
    shared = getattr(layer, "num_key_value_heads", None)
    groups = heads // shared if isinstance(heads, int) and isinstance(shared, int) and shared else 1
    return 2 * attention // groups


def _feed_forward(layer: PreTrainedConfig) -> int:
    """Gemma 3n names one width a layer, in a list."""
    wide = getattr(layer, "intermediate_size", None) or 4 * layer.hidden_size
    return wide if isinstance(wide, int) else max(wide)
