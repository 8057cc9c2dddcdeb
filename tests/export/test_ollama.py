"""Ollama's template renders what the codec renders, by a reader of the few constructs of Go's templates that are used."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from hone.chat.codec import build_codec
from hone.chat.message import Conversation, message
from hone.config.chat import ChatConfig
from hone.export.ollama import write_modelfile

PROJECT = Path(__file__).resolve().parents[2]
TALKS = [
    [("user", "Hello {{ there }}")],
    [("system", "Be brief."), ("user", "one")],
    [("user", "one"), ("assistant", 'two "quoted"'), ("user", "three")],
    [("system", "Be brief."), ("user", "one"), ("assistant", "two"), ("user", "three"), ("assistant", "four"), ("user", "five")],
]
FORMATS = [("tiny", "chatml"), ("tiny", "qwen"), ("tiny", "vicuna"), ("demo", "llama3")]
TOKEN = re.compile(r"\{\{(-?)\s*(.*?)\s*(-?)\}\}", re.DOTALL)


def go(template: str, messages: list[tuple[str, str]]) -> str:
    """Run the template: strings, `if eq/not/$last ... else if ... else ... end`, one `range` over the messages."""
    parts, at = [], 0
    for found in TOKEN.finditer(template):
        parts.append(("text", template[at : found.start()]))
        parts.append(("code", found[2]))
        at = found.end()
    parts.append(("text", template[at:]))
    return _run(parts, 0, {"first": messages[0]}, messages)[0]


def _run(parts, at, names, messages) -> tuple[str, int]:
    """What stands up to the next end or else, and where that is."""
    out = ""
    while at < len(parts):
        kind, said = parts[at]
        if kind == "text":
            out += said
        elif said == "end" or said.startswith("else"):
            return out, at
        elif said.startswith("range"):
            for number, one in enumerate(messages):
                inner, end = _run(parts, at + 1, {**names, "m": one, "last": number == len(messages) - 1}, messages)
                out += inner
            at = end
        elif said.startswith("if"):
            inner, at = _choose(parts, at, said[2:], names, messages)
            out += inner
        elif said.startswith('"'):
            out += json.loads(said)
        elif not said.startswith(("$first :=", "$last :=")):
            out += names[re.fullmatch(r"\$(\w+)\.Content", said)[1]][1]
        at += 1
    return out, at


def _choose(parts, at, condition, names, messages) -> tuple[str, int]:
    chosen, done = "", False
    while True:
        inner, end = _run(parts, at + 1, names, messages)
        if not done and _holds(condition, names):
            chosen, done = inner, True
        said = parts[end][1]
        if said == "end":
            return chosen, end
        condition, at = said.removeprefix("else").strip().removeprefix("if"), end


def _holds(condition: str, names) -> bool:
    condition = condition.strip()
    if not condition:
        return True
    if condition in ("$last", "not $last"):
        return names["last"] == (condition == "$last")
    name, role = re.fullmatch(r'eq \$(\w+)\.Role "(\w+)"', condition).groups()
    return names[name][0] == role


def template_of(modelfile: str) -> str:
    return modelfile.split('TEMPLATE """')[1].split('"""')[0]


@pytest.mark.parametrize(("words", "name"), FORMATS)
def test_it_renders_what_the_codec_renders(tiny_tokenizer_dir, words, name) -> None:
    folder = tiny_tokenizer_dir if words == "tiny" else PROJECT / "demo" / "model"
    codec = build_codec(ChatConfig(template=name), AutoTokenizer.from_pretrained(folder))
    made = write_modelfile(codec, "x.gguf")
    assert made.text.startswith("FROM ./x.gguf\n") and "PARAMETER stop" in made.text
    bos = codec.tokenizer.bos_token or ""
    for talk in TALKS:
        wanted = codec.template.render(Conversation(tuple(message(role, text) for role, text in talk)), prompt=True).text
        got = go(template_of(made.text), talk)
        assert got in (wanted, wanted.removeprefix(bos)), talk


def test_a_format_that_is_not_made_of_pieces_has_no_template(shared) -> None:
    """Mistral's system prompt stands in the last question."""
    codec = build_codec(ChatConfig(template="mistral"), AutoTokenizer.from_pretrained(shared / "tokenizers" / "mistral-7b-v0.3"))
    made = write_modelfile(codec, "x.gguf")
    assert "TEMPLATE" not in made.text and "without a template" in made.said
