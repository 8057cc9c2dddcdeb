"""Families: which models take which media, how many ids stand for one, and what their forward wants to know of it.

One row a family, under the model_type of its config. Does not know files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PretrainedConfig


@dataclass(frozen=True)
class Pictures:
    """token: the config's name of the id that stands for a part of one; count: how many do for one of (width, height) pixels.

    names: what the forward takes of the processor's output.
    """

    token: str
    count: Callable[[Any, PretrainedConfig, int, int], int]
    names: tuple[str, ...] = ("pixel_values",)


@dataclass(frozen=True)
class Sounds:
    """The same of sounds: count: how many ids stand for one of so many samples."""

    token: str
    count: Callable[[Any, PretrainedConfig, int], int]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Family:
    """kinds: how each kind of media is read. types: the forward's name for which tokens stand for media, '' where it asks not.

    packs: whether its sequences attend alike in a packed row. folded: whether places of media have three numbers each, which
    the model's get_rope_index gives (M-RoPE). towers: model_types of what looks, where a family comes with several. own_loss:
    whether its forward computes the loss itself, past the model's loss_function, so that all logits are formed.
    """

    kinds: Mapping[str, Pictures | Sounds]
    types: str = ""
    packs: bool = True
    folded: bool = False
    towers: tuple[str, ...] = ()
    own_loss: bool = False


def family_of(config: PretrainedConfig) -> Family | None:
    """The row of a model's config; None for one of text alone, or with a tower that is not known here."""
    family = FAMILIES.get(config.model_type)
    if family is not None and family.towers and config.vision_config.model_type not in family.towers:
        return None
    return family


def _patches(processor: Any, config: PretrainedConfig, width: int, height: int) -> int:
    """Qwen-VL: a picture keeps its shape; of merge_size x merge_size patches one token is made."""
    return processor.get_number_of_image_patches(height, width) // processor.merge_size**2


def _crops(processor: Any, config: PretrainedConfig, width: int, height: int) -> int:
    """LLaVA: every picture is cut to one square; what CLIP puts before the patches goes where the config says so."""
    size = processor.crop_size
    patch = config.vision_config.patch_size
    before = int(config.vision_config.model_type == "clip_vision_model")
    patches = (size["height"] // patch) * (size["width"] // patch) + before
    return patches - (config.vision_feature_select_strategy == "default")


def _fixed(processor: Any, config: PretrainedConfig, width: int, height: int) -> int:
    """Gemma 3: every picture becomes one square of as many tokens as the config says."""
    return config.mm_tokens_per_image


def _heard(processor: Any, config: PretrainedConfig, samples: int) -> int:
    """Qwen2-Audio: a step of the spectrum each hop_length samples, halved by the tower's convolution and by its pooling."""
    if samples > processor.n_samples:
        most = processor.n_samples / processor.sampling_rate
        raise ValueError(f"it has {samples / processor.sampling_rate:.1f} seconds, and the model hears {most:g}: cut it")
    steps = -(-samples // processor.hop_length)
    return ((steps - 1) // 2 + 1 - 2) // 2 + 1


_QWEN_VL = Family(
    {"image": Pictures("image_token_id", _patches, ("pixel_values", "image_grid_thw"))}, types="mm_token_type_ids", folded=True
)

FAMILIES: Mapping[str, Family] = {
    "qwen2_vl": _QWEN_VL,
    "qwen2_5_vl": _QWEN_VL,
    "qwen3_vl": _QWEN_VL,
    "llava": Family({"image": Pictures("image_token_id", _crops)}, towers=("clip_vision_model", "siglip_vision_model")),
    "qwen2_audio": Family(
        {"audio": Sounds("audio_token_id", _heard, ("input_features", "feature_attention_mask"))}, own_loss=True
    ),
    "gemma3": Family({"image": Pictures("image_token_id", _fixed)}, types="token_type_ids", packs=False),
}
