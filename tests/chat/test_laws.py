"""Every law for every row: with a tokenizer made for it, with every real tokenizer that fits, and against official templates."""

from __future__ import annotations

from functools import partial

import pytest

from hone.chat.codec import build_codec
from hone.chat.laws import check_laws, contradicts, official_of
from hone.chat.message import Conversation, Think
from hone.chat.own import OwnTemplate
from hone.chat.probes import probes
from hone.chat.table import rows
from hone.chat.tokens import control_names
from hone.config.chat import ChatConfig
from hone.errors import TemplateError
from tests.chat.conftest import REAL, real_tokenizer

REALS = ("llama-2", "llama-3.1", "qwen3", "mistral-7b-v0.3", "deepseek-llm-7b")
GENERIC = ("vicuna", "alpaca", "default", "empty")
FITS = {
    "llama-2": ("llama2", *GENERIC),
    "llama-3.1": ("llama3", "default"),
    "qwen3": ("qwen", "chatml", "qwen3", "qwen3_nothink", "empty"),
    "mistral-7b-v0.3": ("mistral", "alpaca"),
    "deepseek-llm-7b": GENERIC,
}
OFFICIAL = {  # row: (file, settings of the row)
    "llama2": ("chujiezheng/llama-2-chat.jinja", {}),
    "llama3": ("llama.cpp/meta-llama-Llama-3.1-8B-Instruct.jinja", {}),
    "qwen": ("llama.cpp/Qwen-Qwen2.5-7B-Instruct.jinja", {}),
    "qwen3": ("trl/qwen3.jinja", {}),
    "deepseek3": ("trl/deepseekv3.jinja", {}),
    "deepseekr1": ("trl/deepseekv3.jinja", {}),
    "gemma": ("trl/gemma_training.jinja", {}),
    "gemma2": ("llama.cpp/google-gemma-2-2b-it.jinja", {}),
    "phi": ("trl/phi3.jinja", {}),
    "phi4": ("axolotl/phi_4.jinja", {}),
    "alpaca": ("chujiezheng/alpaca.jinja", {"default_system": ""}),
    "chatml": ("chujiezheng/chatml.jinja", {}),
}


def assert_lawful(results):
    broken = [f"{result.law}: {result.detail}" for result in results if result.held is False]
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize("name", rows())
def test_a_row_is_lawful_with_a_tokenizer_made_for_it(name, made_codec):
    results = check_laws(made_codec(name))
    assert_lawful(results)
    assert [result.held for result in results[1:]] == [True] * 5


@pytest.mark.parametrize(
    "thinking",
    [{"enable_thinking": False}, {"enable_thinking": None}, {"preserve_thinking": True}],
    ids=["false", "null", "preserved"],
)
@pytest.mark.parametrize("name", ["qwen3", "deepseekr1"])
def test_a_row_that_thinks_is_lawful_in_every_setting(name, thinking, made_codec):
    assert_lawful(check_laws(made_codec(name, **thinking)))


@pytest.mark.parametrize(("tokenizer", "name"), [(tokenizer, name) for tokenizer in FITS for name in FITS[tokenizer]])
def test_a_row_is_lawful_with_a_real_tokenizer(tokenizer, name):
    loaded = real_tokenizer(tokenizer)
    codec = build_codec(ChatConfig(template=name), loaded)
    same = name in ("llama2", "llama3", "qwen3", "mistral")
    results = check_laws(codec, official_of(loaded) if same else None)
    assert_lawful(results)
    assert all(result.held for result in results[0 if same else 1 :])
    assert bool(contradicts(codec, loaded)) == (not same)


@pytest.mark.parametrize("tokenizer", REALS)
def test_a_tokenizers_own_template_is_lawful(tokenizer):
    assert_lawful(check_laws(build_codec(ChatConfig(), real_tokenizer(tokenizer))))


@pytest.mark.parametrize("name", OFFICIAL)
def test_a_row_renders_what_its_maker_renders(name, made_tokenizer):
    file, settings = OFFICIAL[name]
    if not REAL.is_dir():
        pytest.skip("the shared real inputs are not beside this checkout")
    text = (REAL / "chat_templates" / file).read_text()
    if file.startswith("chujiezheng"):  # as their README tells
        text = text.replace("    ", "").replace("\n", "")
    tokenizer = made_tokenizer(rows()[name])
    own = OwnTemplate(text, dict(tokenizer.special_tokens_map), control_names(tokenizer), ChatConfig(), tokenizer.eos_token)
    official = partial(_official, own, name)
    result = check_laws(build_codec(ChatConfig(template=name, **settings), tokenizer), official)[0]
    assert result.held, result.detail


@pytest.mark.parametrize("name", ["result", "results", "parallel calls"])
def test_deepseeks_calls_are_written_as_its_maker_writes_them(name, made_codec, shared):
    codec = made_codec("deepseek3")
    text = (shared / "chat_templates/trl/deepseekv3.jinja").read_text()
    own = OwnTemplate(text, {"bos_token": "<|bos|>"}, frozenset(codec.control), ChatConfig(), "")
    messages = next(probe.conversation.messages for probe in probes() if probe.name == name)
    theirs = _official(own, "deepseek3", Conversation(messages), False)  # its template offers no tools
    assert codec.render(Conversation(messages)).text == theirs


def _official(own, name, conversation, prompt):
    """The maker's rendering, but for what the table's notes tell apart."""
    has_system = conversation.messages[0].role == "system"
    if name == "phi4" and not has_system:
        raise TemplateError("the file is Phi-4-reasoning's, which has a system prompt of its own")
    if name.startswith("deepseek") and any(isinstance(part, Think) for one in conversation.messages for part in one.parts):
        raise TemplateError("the file drops thoughts, but not the line breaks after them")
    text = own.plain(conversation, prompt)
    if name in ("alpaca", "chatml"):  # there the bos token is written only for tokenizers that add one themselves
        return text.removeprefix("<|bos|>")
    text = text.replace("<\uff5cend\u2581of\u2581sentence\uff5c>", "<|eos|>")  # which DeepSeek's writes out
    return text.removesuffix("<think>\n") if name == "deepseek3" and prompt else text
