"""A model that takes pictures, asked over HTTP, in the terminal and by its engine: the same picture, the same answer."""

from __future__ import annotations

import base64

import openai
import pytest

from hone.chat.message import Conversation, Image, Message, Text
from hone.commands import api
from hone.config import load
from hone.inference.base import Request
from hone.inference.terminal import Talk
from tests.pictures import make_model, picture
from tests.serving.servers import NAME, live

WORDS = "What is this?"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seeing")
    _, template = make_model(folder, "qwen2_5_vl")
    words = [f"model_name_or_path={folder}", f"template={template}", "do_sample=false", "max_new_tokens=6", "infer_dtype=float32"]
    return load(words, "api")


@pytest.fixture(scope="module")
def served(run):
    return api.load_served(run, NAME, num_together=2)


@pytest.fixture(scope="module")
def server(served, run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "a.png").write_bytes(picture(seed=1))
    with live(served, settings=run.generate, api_media_folder=str(folder)) as server:
        yield server


def ask(server, *urls):
    pictures = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    messages = [{"role": "user", "content": [*pictures, {"type": "text", "text": WORDS}]}]
    answer = server.client.chat.completions.create(model=NAME, messages=messages)
    return answer.choices[0].message.content, answer.usage.prompt_tokens


def data_url(data):
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def test_the_picture_of_a_request_is_the_one_that_the_model_sees(server, served, run):
    engine, seen = served.engine, {}
    for seed in (1, 2):
        data = picture(seed=seed)
        asked = Request(Conversation((Message("user", (Image(data), Text(WORDS))),)), run.generate)
        (alone,) = engine.generate_many([asked])
        seen[seed] = alone.message.text, alone.num_prompt
        assert ask(server, data_url(data)) == seen[seed]
    assert ask(server, "a.png") == seen[1], "a file of the folder is the same picture"
    assert seen[1][0] != seen[2][0], "another picture, another answer"
    assert seen[1][1] > ask(server)[1] and ask(server, data_url(picture(60, 100)))[1] > seen[1][1], "larger ones are more tokens"


def test_sounds_are_refused_by_name(server):
    part = {"type": "audio_url", "audio_url": {"url": "data:audio/wav;base64,UklGRgAAAABXQVZF"}}
    with pytest.raises(openai.BadRequestError, match=r"messages\[0\].content\[0\]: .* takes text and image, and no audio"):
        server.client.chat.completions.create(model=NAME, messages=[{"role": "user", "content": [part]}])


def test_the_terminal_shows_the_same_picture(served, run, server, tmp_path, capsys):
    (tmp_path / "b.png").write_bytes(picture(seed=2))
    talk = Talk(served.engine, run.generate)
    talk.take(f"/image {tmp_path / 'b.png'}")
    talk.take(WORDS)
    assert talk.messages[-1].text == ask(server, data_url(picture(seed=2)))[0]
