"""A live server around a random tiny model, and one whose answers a test writes."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from hone.chat.codec import build_codec
from hone.config.chat import ChatConfig
from hone.inference.hf import HfEngine
from hone.serving.desk import Served
from tests.serving.servers import NAME, Scripted, live


@pytest.fixture(scope="session")
def codec(tiny_tokenizer):
    return build_codec(ChatConfig(template="qwen"), tiny_tokenizer)


@pytest.fixture(scope="session")
def engine(tiny_model_dir, codec):
    module = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32).eval()
    module.config.max_position_embeddings = 2048  # room for tools in a prompt of bytes
    return HfEngine(module, codec)


@pytest.fixture(scope="module")
def tiny(engine):
    """A server of a random model; its answers mean nothing, and may hold anything."""
    with live(Served(NAME, engine=engine), api_max_choices=4, api_max_tokens=64, api_max_messages=8) as server:
        yield server


@pytest.fixture(scope="module")
def speaker(codec):
    """The engine behind `told`; tests set its script."""
    return Scripted(codec)


@pytest.fixture(scope="module")
def told(speaker):
    """A server that says the speaker's script."""
    with live(Served(NAME, engine=speaker), api_max_waiting=1, api_timeout=20) as server:
        yield server
