"""Tiny random models that take pictures, in folders as their makers publish them, and pictures to show them. No test stands here.

Does not know what is asked of them.
"""

from __future__ import annotations

import io
import json
import wave
from pathlib import Path
from typing import Any

import torch
from PIL import Image as Pillow
from transformers import AutoConfig, AutoModelForMultimodalLM, PreTrainedModel, WhisperFeatureExtractor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from hone.chat.codec import Codec
from hone.chat.survey import tokens_of
from hone.chat.table import rows
from hone.config.chat import ChatConfig
from hone.config.model import ModelConfig
from hone.inference.codec import load_codec
from hone.models.media.reader import load_reader
from hone.models.stand_in import stand_in_tokenizer

TEXT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 2048, "initializer_range": 0.3, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
}  # fmt: skip
QWEN = {"depth": 2, "num_heads": 2, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}
M_ROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
SIZES = {"size": {"shortest_edge": 28 * 28 * 2, "longest_edge": 28 * 28 * 12}}

FAMILIES: dict[str, tuple[str, dict[str, Any], Any]] = {  # model_type: template, config, processor
    "qwen2_5_vl": (
        "qwen2_vl",
        {
            "text_config": {**TEXT, "rope_parameters": M_ROPE},
            "vision_config": {
                **QWEN, "hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 32, "fullatt_block_indexes": [1],
                "window_size": 56,
            },
        },
        Qwen2VLImageProcessorPil(**SIZES),
    ),
    "qwen2_vl": (
        "qwen2_vl",
        {
            "text_config": {**TEXT, "rope_parameters": M_ROPE},
            "vision_config": {**QWEN, "embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2},
        },
        Qwen2VLImageProcessorPil(**SIZES),
    ),
    "qwen3_vl": (
        "qwen3_vl_nothink",
        {
            "text_config": {**TEXT, "head_dim": 8, "rope_parameters": M_ROPE},
            "vision_config": {
                **QWEN, "hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 32, "patch_size": 16,
                "deepstack_visual_indexes": [0], "num_position_embeddings": 16,
            },
        },
        Qwen2VLImageProcessorPil(**SIZES, patch_size=16),
    ),
    "llava": (
        "llava",
        {
            "text_config": {**TEXT, "model_type": "llama"},
            "vision_config": {
                "model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
                "num_attention_heads": 2, "image_size": 42, "patch_size": 14,
            },
        },
        CLIPImageProcessorPil(size={"shortest_edge": 42}, crop_size={"height": 42, "width": 42}),
    ),
    "gemma3": (
        "gemma3",
        {
            "text_config": {**TEXT, "head_dim": 8, "sliding_window": 64, "query_pre_attn_scalar": 8},
            "vision_config": {
                "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 56,
                "patch_size": 14,
            },
            "mm_tokens_per_image": 4,
        },
        Gemma3ImageProcessorPil(size={"height": 56, "width": 56}),
    ),
}  # fmt: skip


HEARING: dict[str, tuple[str, dict[str, Any], Any]] = {
    "qwen2_audio": (
        "qwen2_audio",
        {
            "text_config": {**TEXT, "model_type": "qwen2"},
            "audio_config": {
                "d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 48, "num_mel_bins": 16,
                "max_source_positions": 100,
            },
        },
        WhisperFeatureExtractor(feature_size=16, chunk_length=2),
    ),
}  # fmt: skip
"""Of two seconds at most."""


Row = tuple[str, dict[str, Any], Any]


def make_model(folder: Path, family: str, *, seed: int = 0, row: Row | None = None) -> tuple[PreTrainedModel, str]:
    """A model of the family written into `folder` with its tokenizer and processor; the module, and the template's name.

    row: in place of the family's own above.
    """
    template, settings, processor = row or {**FAMILIES, **HEARING}[family]
    written = rows()[template]
    tokenizer = stand_in_tokenizer(written.bos, written.eos, tokens_of(written))
    ids = {f"{kind}_token_id": tokenizer.convert_tokens_to_ids(token) for kind, token in _media_tokens(written.media).items()}
    settings = json.loads(json.dumps(settings))
    settings["text_config"]["vocab_size"] = len(tokenizer)
    settings["text_config"]["pad_token_id"] = tokenizer.pad_token_id
    config = AutoConfig.for_model(family, **{"initializer_range": 0.3, **settings, **ids})
    torch.manual_seed(seed)
    module = AutoModelForMultimodalLM.from_config(config, dtype=torch.float32).eval()
    for weight in module.parameters():
        if weight.dim() > 1 and not weight.any():  # Gemma 3's projector begins as nothing
            torch.nn.init.normal_(weight, std=0.3)
    module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    processor.save_pretrained(folder)
    return module, template


def make_codec(folder: Path, family: str) -> tuple[PreTrainedModel, Codec]:
    """A model as `make_model` writes it, and its codec."""
    module, template = make_model(folder, family)
    model = ModelConfig(model_name_or_path=str(folder))
    return module, load_codec(model, ChatConfig(template=template), reader=load_reader(model))


def _media_tokens(media: Any) -> dict[str, str]:
    """Of "<|vision_start|><|image_pad|><|vision_end|>" the token in the middle."""
    found = {kind: written.strip().strip("<>").split("><") for kind, written in media.items()}
    return {kind: f"<{parts[len(parts) // 2]}>" for kind, parts in found.items()}


def sound(seconds: float = 0.5, rate: int = 16000, *, seed: int = 0) -> bytes:
    """A WAV file of noise."""
    noise = torch.randint(-9999, 9999, (int(seconds * rate),), generator=torch.Generator().manual_seed(seed), dtype=torch.int16)
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(noise.numpy().tobytes())
    return file.getvalue()


def picture(width: int = 60, height: int = 40, *, seed: int = 0) -> bytes:
    """A PNG of noise."""
    noise = torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    file = io.BytesIO()
    Pillow.fromarray(noise.numpy()).save(file, "PNG")
    return file.getvalue()
