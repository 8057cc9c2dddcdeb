"""Pictures in a conversation: what stands for them, and where they are refused rather than left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from hone.chat.message import Audio, Conversation, Image, Message, Text, Video, message
from hone.chat.openai import to_openai
from hone.errors import DataError, TemplateError


def looked_at(*media) -> Conversation:
    return Conversation((Message("user", (Text("What is "), *media, Text("?"))), message("assistant", "A cat.")))


@pytest.mark.parametrize("part", [Image(b"bytes"), Video(Path("a.mp4")), Audio(Path("a.wav"))])
def test_a_model_of_text_alone_refuses_media_by_name(made_codec, part):
    codec = made_codec("qwen")
    assert codec.media == frozenset()
    talk = looked_at(part)
    for ask in (codec.prompt, codec.render, codec.examples, lambda one: codec.encode([one])):
        with pytest.raises(TemplateError, match=f"{part.kind} content"):
            ask(talk)
    with pytest.raises(DataError, match=part.kind):
        to_openai(talk)


def test_media_stand_in_order_and_are_no_text():
    talk = looked_at(Image(b"a"), Audio(b"b"))
    assert talk.media == (Image(b"a"), Audio(b"b"))
    assert talk.messages[0].text == "What is ?"
