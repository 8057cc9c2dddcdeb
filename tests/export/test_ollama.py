"""Ollama's template renders what the codec renders: by a reader of what it uses of Go's language, and by Go itself."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from hone.chat.codec import Codec, build_codec
from hone.chat.message import Conversation, Message, Text, Think, ToolCall, ToolResult, message
from hone.config.chat import ChatConfig
from hone.export.calls import TOOLS
from hone.export.ollama import write_modelfile
from tests.export.gotemplate import Words, by_go, render

PROJECT = Path(__file__).resolve().parents[2]
BRIEF, ONE, TWO, THREE = (
    message("system", "Be brief."),
    *(message("user", "one {{ a }}"), message("assistant", 'two "q"'), message("user", "three")),
)
ASKS, ASKS_TWO = ToolCall("weatherq", {"city": "Paris", "days": 2}), ToolCall("timeq", {})
SUNNY, NINE = Message("tool", (ToolResult('{"sky": "blue"}'),)), Message("tool", (ToolResult("nine"),))
PLAIN = [(ONE,), (BRIEF, ONE), (ONE, TWO, THREE), (BRIEF, ONE, TWO, THREE, TWO, ONE)]
WITH_TOOLS = [
    *PLAIN,
    (ONE, Message("assistant", (ASKS,)), SUNNY),
    (BRIEF, ONE, Message("assistant", (Text("Let me see."), ASKS, ASKS_TWO)), SUNNY, NINE, TWO, THREE),
    (ONE, Message("assistant", (ASKS,)), SUNNY, Message("assistant", (ASKS_TWO,)), NINE),
]
THOUGHT = [
    (ONE, Message("assistant", (Think("Hm."), *TWO.parts)), THREE),
    (ONE, Message("assistant", (Think("Hm."), ASKS)), SUNNY),
]
FORMATS = {  # format: the tokenizer, whether it knows tools
    "chatml": ("tiny", True),
    "qwen": ("tiny", True),
    "qwen3": ("tiny", True),
    "vicuna": ("tiny", True),
    "llama3": ("demo", False),
}


def as_ollama(talk: tuple[Message, ...], tools: tuple) -> dict[str, Any]:
    """What Ollama hands its template."""

    def said(one: Message) -> dict[str, Any]:
        words = "".join(
            part.text if isinstance(part, Text) else part.content
            for part in one.parts
            if not hasattr(part, "arguments") and not isinstance(part, Think)
        )
        thought = "".join(part.text for part in one.parts if isinstance(part, Think))
        calls = [
            {"Function": {"Name": call.name, "Arguments": Words(call.arguments)}}
            for call in one.parts
            if isinstance(call, ToolCall)
        ]
        return {"Role": one.role, "Content": words, "Thinking": thought, "ToolCalls": calls}

    return {"Messages": [said(one) for one in talk], "Tools": [{"Function": Words(tool["function"])} for tool in tools]}


def spaced(text: str) -> str:
    """The text with the JSON in it as the codec writes it: Ollama writes none of its spaces."""
    decoder, out, at = json.JSONDecoder(), "", 0
    for found in re.finditer(r"\{", text):
        if found.start() < at:
            continue
        try:
            held, end = decoder.raw_decode(text, found.start())
        except json.JSONDecodeError:
            continue
        out += text[at : found.start()] + json.dumps(held)
        at = end
    return out + text[at:]


def template_of(codec: Codec) -> str:
    return write_modelfile(codec, "x.gguf").text.split('TEMPLATE """')[1].split('"""')[0]


def cases(codec: Codec, name: str) -> list[tuple[Conversation, str]]:
    """Conversations and what the codec makes of them, as a prompt."""
    knows = FORMATS[name][1]
    talks = [Conversation(talk) for talk in PLAIN]
    talks += [Conversation(talk, TOOLS) for talk in (*WITH_TOOLS, *THOUGHT) if knows]
    return [(talk, codec.template.render(talk, prompt=True).text) for talk in talks]


@pytest.fixture
def codec_of(tiny_tokenizer_dir):
    def make(name: str) -> Codec:
        folder = tiny_tokenizer_dir if FORMATS[name][0] == "tiny" else PROJECT / "demo" / "model"
        return build_codec(ChatConfig(template=name), AutoTokenizer.from_pretrained(folder))

    return make


@pytest.mark.parametrize("name", FORMATS)
def test_it_renders_what_the_codec_renders(codec_of, name) -> None:
    codec = codec_of(name)
    made = write_modelfile(codec, "x.gguf")
    assert made.text.startswith("FROM ./x.gguf\n") and "PARAMETER stop" in made.text
    assert ("it knows tools" in made.said) == FORMATS[name][1]
    bos = codec.tokenizer.bos_token or ""
    for talk, wanted in cases(codec, name):
        got = spaced(render(template_of(codec), as_ollama(talk.messages, talk.tools)))
        assert got in (spaced(wanted), spaced(wanted).removeprefix(bos)), talk.messages


def test_go_s_own_engine_renders_the_same(codec_of, tmp_path) -> None:
    codecs = {name: codec_of(name) for name in FORMATS}
    wanted = [(name, talk, text) for name, codec in codecs.items() for talk, text in cases(codec, name)]
    asked = [{"Template": template_of(codecs[name]), **as_ollama(talk.messages, talk.tools)} for name, talk, _ in wanted]
    got = by_go(tmp_path, asked)
    if got is None:
        pytest.skip("Go is not installed")
    for text, (name, talk, ours) in zip(got, wanted, strict=True):
        bos = codecs[name].tokenizer.bos_token or ""
        assert spaced(text) in (spaced(ours), spaced(ours).removeprefix(bos)), (name, talk.messages)


def test_what_ollama_looks_for_stands_in_the_template_as_text(codec_of) -> None:
    """It reads the mark of a call from the first text behind `if .ToolCalls`, and the marks of a thought from those around it."""
    template = template_of(codec_of("qwen"))
    behind = template.split("{{ if .ToolCalls }}")[1]
    first = next(text for text in re.split(r"\{\{.*?\}\}", behind) if text.strip())
    assert first.split("{")[0].strip() == "<tool_call>"
    assert re.search(r"<think>\s*\{\{ .Thinking \}\}\s*</think>", template)


def test_a_format_that_is_not_made_of_pieces_has_no_template(shared) -> None:
    """Mistral's system prompt stands in the last question."""
    codec = build_codec(ChatConfig(template="mistral"), AutoTokenizer.from_pretrained(shared / "tokenizers" / "mistral-7b-v0.3"))
    made = write_modelfile(codec, "x.gguf")
    assert "TEMPLATE" not in made.text and "without a template" in made.said
