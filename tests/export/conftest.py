"""Adapters made on the spot by PEFT itself, with random numbers in both factors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM


@pytest.fixture
def make_adapter(tmp_path: Path):
    """make_adapter(base, name, seed=, **LoraConfig arguments) -> folder; every weight of the adapter is drawn at random."""

    def make(base: Path, name: str, *, seed: int = 0, **settings) -> Path:
        module = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        settings = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", **settings}
        adapted = get_peft_model(module, LoraConfig(task_type="CAUSAL_LM", **settings))
        draw = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in adapted.parameters():
                if weight.requires_grad:
                    weight += 0.05 * torch.randn(weight.shape, generator=draw)
        adapted.save_pretrained(tmp_path / name)
        return tmp_path / name

    return make
