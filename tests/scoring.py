"""Reward models for tests, as files: random, so that scores differ, and not trained by anything.

Does not know what they are used for.
"""

from __future__ import annotations

from pathlib import Path

import torch


def write_value_head(folder: Path, width: int, seed: int) -> None:
    """LLaMA-Factory's value_head.safetensors of a model `width` wide."""
    from safetensors.torch import save_file

    drawn = torch.randn(1, width, generator=torch.Generator().manual_seed(seed))
    save_file({"v_head.summary.weight": drawn, "v_head.summary.bias": torch.zeros(1)}, folder / "value_head.safetensors")


def write_reward_adapter(model: Path | str, folder: Path, seed: int = 3) -> Path:
    """A random LoRA adapter of `model` with a value head; its folder."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model)
    torch.manual_seed(seed)
    tuned = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "v_proj", "up_proj"], init_lora_weights=False))
    tuned.save_pretrained(folder)
    write_value_head(folder, base.config.hidden_size, seed - 2)
    return folder
