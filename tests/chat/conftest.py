"""Tokenizers for the chat tests: real ones where they are at hand, and one made for each row with every token it needs."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from hone.chat.codec import Codec, build_codec
from hone.chat.dialects.dialect import Dialect, Mark
from hone.chat.dialects.reader import Reader
from hone.chat.events import parts_of
from hone.chat.message import Conversation, Part, Text, message
from hone.chat.reading import Tools
from hone.chat.survey import tokens_of
from hone.chat.table import Row, rows
from hone.config.chat import ChatConfig
from hone.models.stand_in import stand_in_tokenizer

REAL = Path(__file__).resolve().parents[3] / "shared" / "data"


@cache
def real_tokenizer(name: str) -> Any:
    """A tokenizer of the shared inputs; skips without them. "qwen2.5" is qwen3's files with the older settings."""
    from transformers import AutoTokenizer

    folder = REAL / "tokenizers" / name
    if not folder.is_dir():
        pytest.skip("the shared real inputs are not beside this checkout")
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="session")
def made_tokenizer():
    """`made_tokenizer(row, without=("<|im_end|>",))`: the stand-in tokenizer with the row's tokens."""

    @cache
    def made(row: Row, *, without: tuple[str, ...] = ()) -> Any:
        return stand_in_tokenizer(row.bos, row.eos, [word for word in tokens_of(row) if word not in without])

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


def read(dialect: Dialect, text: str, mark: Mark, tools: Tools = ()) -> list[Part]:
    """The parts of what a whole answer says after its thought; one empty Text for ''."""
    reader = Reader(dialect, mark, tools)
    return list(parts_of([*reader.feed(text), *reader.close()])) or [Text("")]
