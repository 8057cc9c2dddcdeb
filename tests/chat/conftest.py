"""Tokenizers for the chat tests: real ones where they are at hand, and one made for each row with every token it needs."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from hone.chat.codec import Codec, build_codec
from hone.chat.dialects.named import DeepSeek3
from hone.chat.message import Conversation, message
from hone.chat.table import Row, rows
from hone.config.chat import ChatConfig

REAL = Path(__file__).resolve().parents[3] / "shared" / "data"
DIALECT_TOKENS = {
    "qwen": ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"],
    "mistral": ["[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"],
    "deepseek3": [DeepSeek3.begin, DeepSeek3.end, DeepSeek3.call_begin, DeepSeek3.call_end, DeepSeek3.sep, "<think>", "</think>"],
    "llama3": ["<|eom_id|>", "<|python_tag|>"],
}


@cache
def real_tokenizer(name: str) -> Any:
    """A tokenizer of the shared inputs; skips without them. "qwen2.5" is qwen3's files with the older settings."""
    from transformers import AutoTokenizer

    folder = REAL / "tokenizers" / name
    if not folder.is_dir():
        pytest.skip("the shared real inputs are not beside this checkout")
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="session")
def made_tokenizer(tiny_tokenizer_dir: Path):
    """`made_tokenizer(row)`: the tiny tokenizer with the row's tokens, bos "<|bos|>" and eos "<|eos|>"."""

    @cache
    def made(row: Row, *, without: tuple[str, ...] = ()) -> Any:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
        wanted = [*row.tokens, *row.stop, *DIALECT_TOKENS.get(row.dialect, [])]
        tokens = [word for word in dict.fromkeys(wanted) if word != "eos" and word not in without]
        tokenizer.add_special_tokens({"additional_special_tokens": tokens, "eos_token": "<|eos|>"})
        return tokenizer

    return made


@pytest.fixture(scope="session")
def made_codec(made_tokenizer):
    """`made_codec("qwen3", enable_thinking=False)`: the codec of a row with the tokenizer made for it."""

    def made(name: str, **settings: Any) -> Codec:
        return build_codec(ChatConfig(template=name, **settings), made_tokenizer(rows()[name]))

    return made


def said(*texts: str) -> Conversation:
    """User and assistant in turn."""
    return Conversation(tuple(message("assistant" if i % 2 else "user", text) for i, text in enumerate(texts)))


def asked(conversation: Conversation) -> Conversation:
    """Without the last message."""
    return Conversation(conversation.messages[:-1], conversation.tools)
