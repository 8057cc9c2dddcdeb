"""The exported chat template: kept, written or refused, for every named format with every real tokenizer."""

from __future__ import annotations

import pytest

from hone.chat.codec import build_codec
from hone.chat.message import Conversation, message
from hone.chat.openai import message_to_openai
from hone.config.chat import ChatConfig
from hone.config.model import ModelConfig
from hone.export.template import choose_template, renders_alike, written_template
from hone.models.tokenizer import load_tokenizer

TALK = (message("user", 'a "b" {{ c }}\n'), message("assistant", "\u4f60\u597d {% d %}"), message("user", "e\\n"))


def rendered(tokenizer, template: str | None, talk=TALK) -> str:
    items = [item for one in talk for item in message_to_openai(one)]
    return tokenizer.apply_chat_template(items, chat_template=template, add_generation_prompt=True, tokenize=False)


def test_the_own_template_is_kept_where_it_agrees(tiny_tokenizer) -> None:
    chosen = choose_template(build_codec(ChatConfig(), tiny_tokenizer), tiny_tokenizer)
    assert chosen.agrees and chosen.text is None


def test_a_wrong_template_is_seen(tiny_tokenizer) -> None:
    codec = build_codec(ChatConfig(), tiny_tokenizer)
    assert not renders_alike(codec, tiny_tokenizer, tiny_tokenizer.chat_template.replace("<|im_end|>\n", "<|im_end|>"))
    assert not renders_alike(codec, tiny_tokenizer, "{{ raise_exception('no') }}")


def test_text_that_looks_like_jinja_is_text(tiny_tokenizer) -> None:
    codec = build_codec(ChatConfig(template="chatml", default_system='Say "{{ x }}" and \\n.'), tiny_tokenizer)
    made = written_template(codec)
    assert rendered(tiny_tokenizer, made) == codec.template.render(Conversation(TALK), prompt=True).text


@pytest.mark.parametrize("name", ["default", "vicuna", "alpaca", "empty"])
@pytest.mark.parametrize("folder", ["llama-2", "llama-3.1"])
def test_local_formats_are_written_for_any_tokenizer(shared, folder, name) -> None:
    tokenizer = load_tokenizer(ModelConfig(model_name_or_path=str(shared / "tokenizers" / folder)))
    codec = build_codec(ChatConfig(template=name), tokenizer)
    chosen = choose_template(codec, tokenizer)
    assert chosen.agrees
    talk = (message("user", "What is 2+2?"), message("assistant", "4."), message("user", "And 3+3?"))
    assert rendered(tokenizer, chosen.text, talk) == codec.template.render(Conversation(talk), prompt=True).text


def test_a_format_that_moves_the_system_prompt_is_refused_loudly(shared) -> None:
    tokenizer = load_tokenizer(ModelConfig(model_name_or_path=str(shared / "tokenizers" / "mistral-7b-v0.3")))
    tokenizer.chat_template = "another"
    chosen = choose_template(build_codec(ChatConfig(template="mistral"), tokenizer), tokenizer)
    assert not chosen.agrees and "NOT" in chosen.origin
