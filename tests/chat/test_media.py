"""Pictures in a conversation: what stands for them, and where they are refused rather than left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from hone.chat.message import Audio, Conversation, Image, Message, Text, Video, message
from hone.chat.openai import conversation_from_openai, to_openai
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


def test_media_stand_in_order_and_are_no_text():
    talk = looked_at(Image(b"a"), Audio(b"b"))
    assert talk.media == (Image(b"a"), Audio(b"b"))
    assert talk.messages[0].text == "What is ?"


def test_media_in_openais_json_are_paths_and_are_read_by_whoever_asks():
    """Nothing is opened here: what stands at a place is the caller's, and a part that nobody has read is refused."""
    talk = looked_at(Image(Path("a.png")), Video(Path("b.mp4")))
    items = to_openai(talk)
    assert [one["type"] for one in items[0]["content"]] == ["text", "image_url", "video_url", "text"]
    assert items[0]["content"][1] == {"type": "image_url", "image_url": {"url": "a.png"}}
    read = {f"messages[0].content[{index}]": part for index, part in enumerate(talk.messages[0].parts) if index in (1, 2)}
    assert conversation_from_openai(items, media=read) == talk
    with pytest.raises(DataError, match=r"messages\[0\]\.content\[1\].*image_url"):
        conversation_from_openai(items)
    with pytest.raises(DataError, match="only a user's message can hold image content"):
        conversation_from_openai([{**items[0], "role": "assistant"}], media=read)
    with pytest.raises(DataError, match="image content that lies in no file"):
        to_openai(looked_at(Image(b"bytes")))
