"""Every law for every row: with a tokenizer made for it, with every real tokenizer that fits, and against official templates."""

from __future__ import annotations

import runpy
from copy import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hone.chat.codec import build_codec
from hone.chat.encoded import IGNORE
from hone.chat.laws import check_laws, contradicts, official_of
from hone.chat.message import Conversation
from hone.chat.own import OwnTemplate
from hone.chat.probes import probes
from hone.chat.survey import survey
from hone.chat.table import format_text, rows
from hone.config.chat import ChatConfig
from hone.models.stand_in import stand_in_tokenizer
from tests.chat.conftest import REAL, real_tokenizer, said

REALS = ("llama-2", "llama-3.1", "qwen3", "mistral-7b-v0.3", "deepseek-llm-7b")
GENERIC = ("vicuna", "alpaca", "default", "empty")
THINKING = [name for name, row in rows().items() if row.thinking != "none"]
FITS = {
    "llama-2": ("llama2", *GENERIC),
    "llama-3.1": ("llama3", "default"),
    "qwen3": ("qwen", "chatml", "qwen3", "qwen3_nothink", "empty"),
    "mistral-7b-v0.3": ("mistral", "alpaca"),
    "deepseek-llm-7b": ("deepseek", *GENERIC),
}


def assert_lawful(results):
    broken = [f"{result.law}: {result.detail}" for result in results if result.held is False]
    assert not broken, "\n".join(broken)


@pytest.fixture(scope="session")
def formats_page():
    """The script that writes docs/formats.md, and the page as it stands."""
    docs = Path(__file__).resolve().parents[2] / "docs"
    return runpy.run_path(str(docs / "make_formats.py")), (docs / "formats.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", rows())
def test_a_row_is_lawful_renders_what_its_maker_renders_and_stands_so_on_the_formats_page(name, formats_page):
    """With a tokenizer made for it, against the maker's template where that is at hand, but for declared differences."""
    officials = REAL / "chat_templates"
    (found,) = survey([rows()[name]], stand_in_tokenizer, officials if officials.is_dir() else None)
    assert not found.broken, "\n".join(f"{law.law}: {law.detail}" for law in found.broken)
    assert [law.held for law in found.laws[1:]] == [True] * 5
    if not officials.is_dir():
        return
    assert bool(found.compared) == bool(rows()[name].official), f"{rows()[name].official} renders no probe"
    script, page = formats_page
    lines = [script["line_of"](found), *script["differences_of"](found)]
    assert f"\n{lines[0]}\n" in page and "\n".join(lines[1:]) in page, "write it anew: make docs"


@pytest.mark.parametrize(
    "thinking",
    [{"enable_thinking": False}, {"enable_thinking": None}, {"preserve_thinking": True}],
    ids=["false", "null", "preserved"],
)
@pytest.mark.parametrize("name", THINKING)
def test_a_row_that_thinks_is_lawful_in_every_setting(name, thinking, made_codec):
    assert_lawful(check_laws(made_codec(name, **thinking)))


@pytest.mark.parametrize(("tokenizer", "name"), [(tokenizer, name) for tokenizer in FITS for name in FITS[tokenizer]])
def test_a_row_is_lawful_with_a_real_tokenizer(tokenizer, name):
    loaded = real_tokenizer(tokenizer)
    codec = build_codec(ChatConfig(template=name), loaded)
    same = name in ("llama2", "llama3", "qwen3", "mistral", "deepseek")
    results = check_laws(codec, official_of(loaded) if same else None)
    assert_lawful(results)
    assert all(result.held for result in results[0 if same else 1 :])
    assert bool(contradicts(codec, loaded)) == (not same)


@pytest.mark.parametrize("tokenizer", REALS)
def test_a_tokenizers_own_template_is_lawful(tokenizer):
    assert_lawful(check_laws(build_codec(ChatConfig(), real_tokenizer(tokenizer))))


@pytest.mark.parametrize("name", rows())
def test_answers_in_a_row_are_each_learned_once_with_a_stop_token(name, made_codec):
    codec = made_codec(name)
    talk = next(probe.conversation for probe in probes() if probe.name == "answers in a row")
    found = []
    for example in codec.examples(talk):
        encoded = codec.encode([example])[0]
        said = np.zeros(len(encoded), int)
        for piece in encoded.pieces:
            said[piece.start : piece.end] = piece.message
        for index in sorted(set(said[encoded.labels != IGNORE])):
            places = np.flatnonzero((encoded.labels != IGNORE) & (said == index))
            sampled = codec.prompt(Conversation(example.messages[:index]))
            assert encoded.ids[: len(sampled)].tolist() == sampled and places[0] == len(sampled)
            assert encoded.ids[places[-1]] in codec.stop_ids and len(places) == places[-1] - places[0] + 1
            found.append(index)
    assert found == [1, 2]


def test_a_difference_that_is_none_is_found(shared):
    row = replace(rows()["qwen"], differs={"one turn": "a reason that no longer holds"})
    (found,) = survey([row], stand_in_tokenizer, shared / "chat_templates")
    assert "declared to differ, but equal: one turn" in found.broken[0].detail


def test_a_declared_difference_is_no_contradiction(made_tokenizer):
    row = rows()["solar"]
    tokenizer = copy(made_tokenizer(row))
    # What the maker writes: nothing ends an answer inside the conversation.
    tokenizer.chat_template = (
        "{% for m in messages %}{{ {'system': '### System:\n', 'user': '### User:\n', 'assistant': '### Assistant:\n'}[m.role]"
        " + m.content + ('' if m.role == 'assistant' else '\n\n') }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '### Assistant:\n' }}{% endif %}"
    )
    codec = build_codec(ChatConfig(template="solar"), tokenizer)
    assert row.differs and not contradicts(codec, tokenizer)
    assert contradicts(build_codec(ChatConfig(template="zephyr"), tokenizer), tokenizer)


def test_a_wrong_header_is_found(shared):
    row = replace(rows()["phi4"], official="trl/phi3.jinja")
    (found,) = survey([row], stand_in_tokenizer, shared / "chat_templates")
    assert found.laws[0].held is False and "it gives" in found.laws[0].detail


@pytest.mark.parametrize("name", ["result", "results", "parallel calls"])
def test_deepseeks_calls_are_written_as_its_maker_writes_them(name, made_codec, shared):
    codec = made_codec("deepseek3")
    text = (shared / "chat_templates/trl/deepseekv3.jinja").read_text()
    own = OwnTemplate(text, {"bos_token": codec.tokenizer.bos_token}, frozenset(codec.control), ChatConfig(), "")
    messages = next(probe.conversation.messages for probe in probes() if probe.name == name)
    theirs = own.plain(Conversation(messages), False)  # its template offers no tools
    assert codec.render(Conversation(messages)).text == theirs


@pytest.mark.parametrize("name", ["ministral", "ministral3", "llava_next_mistral", "phi"])
def test_the_fingerprint_knows_the_format_that_is_extended(name, made_codec):
    source, own = made_codec(name).template.source, format_text(f"{rows()[name].format}.jinja")
    extended = own.split('extends "')[1].split('"')[0]
    assert own in source and format_text(extended) in source


def test_gemma_4_is_told_to_think_where_the_answer_does(made_codec):
    answers = {True: "<|think|>", False: "<|channel>thought\n<channel|>"}
    for enable, words in answers.items():
        text = made_codec("gemma4", enable_thinking=enable).template.render(said("2+2?"), prompt=True).text
        assert [word in text for word in answers.values()] == [word == words for word in answers.values()]
    codec = made_codec("gemma4", enable_thinking=None)
    plain, thought = (next(probe.conversation for probe in probes() if probe.name == name) for name in ("one turn", "thought"))
    assert codec.render(plain).text == "<bos><|turn>user\nHi<turn|>\n<|turn>model\n<|channel>thought\n<channel|>Hello!<turn|>\n"
    assert codec.render(thought).text.startswith("<bos><|turn>system\n<|think|>\n<turn|>\n<|turn>user\n2+2?<turn|>\n")


def test_the_small_gemma_4_has_no_empty_thought(made_codec):
    text = made_codec("gemma4n", enable_thinking=False).template.render(said("2+2?"), prompt=True).text
    assert text == "<bos><|turn>user\n2+2?<turn|>\n<|turn>model\n"


def test_gemma_4_goes_on_behind_a_result_in_the_same_turn(made_codec):
    conversation = next(probe.conversation for probe in probes() if probe.name == "results")
    text = made_codec("gemma4", enable_thinking=False).render(conversation).text
    assert text.endswith(
        '<|tool_response>response:weather{value:<|"|>sunny, 20 degrees<|"|>}<tool_response|>'
        '<|tool_response>response:weather{value:<|"|>{"sky": "grey"}<|"|>}<tool_response|>Mixed.<turn|>\n'
    )
