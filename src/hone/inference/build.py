"""An engine out of the settings: tokenizer, codec, model and adapters in the order that every use of a model needs them.

Does not know what will be asked.
"""

from __future__ import annotations

import torch

from hone import log
from hone.adapters.apply import attach
from hone.chat.codec import build_codec
from hone.config.adapter import Adapter
from hone.config.chat import ChatConfig
from hone.config.model import ModelConfig
from hone.config.trained import other_than_trained
from hone.inference.hf import HfEngine
from hone.models.catalog import family_template
from hone.models.load import load_config, load_model
from hone.models.tokenizer import load_tokenizer


def build_engine(
    model: ModelConfig, chat: ChatConfig, adapter: Adapter, *, dtype: str = "auto", length: int | None = None
) -> HfEngine:
    """The embedded engine, adapters on top of the base. dtype: as infer_dtype; "auto" takes the base's own.

    length: the training's cutoff_len, by which rope_scaling stretches; None: twice the base's limit.

    Raises: ModelError, TemplateError where something of it cannot be loaded or does not fit.
    """
    for line in other_than_trained(model, adapter, chat):
        log.once(f"note: {line}")
    tokenizer = load_tokenizer(model)
    codec = build_codec(chat, tokenizer, family=family_template(model.model_name_or_path))
    module = load_model(model, dtype=choose_dtype(model, dtype), device=choose_device(), for_training=False, length=length)
    return HfEngine(attach(module, adapter, base_name=model.model_name_or_path, trainable=False), codec)


def choose_dtype(model: ModelConfig, name: str) -> torch.dtype:
    """torch's type for infer_dtype; "auto" is what the base's config.json says, fp32 where it says nothing."""
    if name != "auto":
        return getattr(torch, name)
    return load_config(model).dtype or torch.float32


def choose_device() -> torch.device:
    """The accelerator where there is one, else the CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
