"""Settings of the base model and its tokenizer: where they are, how they are loaded, how they are quantized.

Does not know whether the model will be trained, served or exported.
"""

from __future__ import annotations

from typing import Literal

from hone.config.section import Section, knob


class Quantization(Section):
    """Weights held in few bits while an adapter is trained on top (QLoRA), or while the model is used."""

    bit: Literal[4, 8] = knob(4, "Bits a weight.", flat="quantization_bit")
    method: Literal["bnb"] = knob("bnb", "Library that quantizes on the fly.", flat="quantization_method")
    type: Literal["nf4", "fp4"] = knob("nf4", "Number format of 4-bit weights.", flat="quantization_type")
    double: bool = knob(True, "Quantize the scales too.", flat="double_quantization")


class ModelConfig(Section):
    """The base model."""

    model_name_or_path: str = knob(..., "Folder or hub id of the base model.")
    model_revision: str = knob("main", "Branch, tag or commit on the hub.")
    cache_dir: str | None = knob(None, "Where downloads are kept.")
    trust_remote_code: bool = knob(False, "Run Python code that comes with the model.")
    hf_hub_token: str | None = knob(None, "Token for private or gated models.")
    use_fast_tokenizer: bool = knob(True, "Use the Rust tokenizer.")
    split_special_tokens: bool = knob(False, "Kept for old files.")
    resize_vocab: bool = knob(False, "Grow the embeddings to the tokenizer's size, padded to a multiple of 64.")
    add_tokens: tuple[str, ...] = knob((), "Tokens to add to the vocabulary.")
    add_special_tokens: tuple[str, ...] = knob((), "Special tokens to add to the vocabulary.")
    train_from_scratch: bool = knob(False, "Start from random weights.")
    low_cpu_mem_usage: bool = knob(True, "Load weights without a second copy in memory.")
    rope_scaling: Literal["linear", "dynamic", "yarn", "llama3"] | None = knob(None, "Stretch positions for longer text.")
    flash_attn: Literal["auto", "disabled", "sdpa", "fa2", "fa3"] = knob("auto", "Attention implementation.")
    quantization: Quantization | None = knob(None, "Hold the frozen weights in few bits.")
