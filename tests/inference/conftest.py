"""A model that can be made to say any ids, for tests of what becomes of them."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from hone.chat.codec import build_codec
from hone.config.chat import ChatConfig


class Parrot(LlamaForCausalLM):
    """After a prompt of `self.after` tokens it says `self.script`, whatever was asked."""

    script: tuple[int, ...] = ()
    after: int = 0

    def forward(self, *arguments, **named):
        out = super().forward(*arguments, **named)
        said = named["past_key_values"].get_seq_length() - self.after
        out.logits[:] = 0.0
        out.logits[..., self.script[min(said, len(self.script) - 1)]] = 50.0
        return out


@pytest.fixture(scope="session")
def codec(tiny_tokenizer):
    return build_codec(ChatConfig(), tiny_tokenizer)


@pytest.fixture(scope="session")
def module(tiny_model_dir):
    return AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32).eval()


@pytest.fixture
def parrot(tiny_model_dir):
    return Parrot.from_pretrained(tiny_model_dir, dtype=torch.float32).eval()
