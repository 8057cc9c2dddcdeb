"""Shape: the sizes of a model, read from its config without loading a weight.

Does not know what the model will be used for.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from hone.config.model import ModelConfig
from hone.models.attention_packed import keep_own, name_eager, why_own
from hone.models.embeddings import grow
from hone.models.load import auto_class, load_config
from hone.models.score_head import ScoreHead
from hone.models.tokenizer import load_tokenizer


@dataclass(frozen=True)
class Shape:
    """architecture: the class's name; num_weights: all of them; widths in units, vocabulary in ids.

    cached: width of the keys and values, together, that a layer keeps of a token while answers are drawn. masked: whether a
    layer keeps a mask of all tokens by all.
    """

    architecture: str
    num_weights: int
    num_layers: int
    hidden: int
    attention: int
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
    wide = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    heads, width = getattr(config, "num_attention_heads", None), getattr(config, "head_dim", None)
    attention = heads * width if isinstance(heads, int) and isinstance(width, int) else config.hidden_size
    shared = getattr(config, "num_key_value_heads", None)
    groups = heads // shared if isinstance(heads, int) and isinstance(shared, int) and shared else 1
    return Shape(
        architecture=type(module).__name__,
        num_weights=sum(weight.numel() for weight in module.parameters()),
        num_layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        attention=attention,
        cached=2 * attention // groups,
        feed_forward=wide,
        vocabulary=config.vocab_size,
        masked=bool(why_own(module)),
    )
