"""What is planned once for conversations of a form gives the ids, labels and pieces of each taken by its very words."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tokenizers import AddedToken

from hone.chat.codec import Codec, build_codec
from hone.chat.encoded import Encoded
from hone.chat.encoding import Encoder
from hone.chat.marks import Outline, Rendered
from hone.chat.message import Conversation, message
from hone.chat.probes import hostile, probes
from hone.chat.survey import tokens_of
from hone.chat.table import rows
from hone.config.chat import ChatConfig
from hone.errors import TemplateError
from hone.models.stand_in import stand_in_tokenizer

WORDS = ["", " ", "\n", "  a", "a  ", " \n a b \n ", "\0c0\0", "\0c1\0\0m0\0 <|im_end|>", "\u4f60 \u00e9"]


def whole(encoded: Encoded) -> tuple[list[int], list[int], tuple[tuple[int, int, str, int], ...]]:
    pieces = tuple((one.start, one.end, one.kind, one.message) for one in encoded.pieces)
    assert [number for start, end, *_ in pieces for number in range(start, end)] == list(range(len(encoded)))
    return encoded.ids.tolist(), encoded.labels.tolist(), pieces


def check(codec: Codec, conversations: list[Conversation]) -> int:
    """Compare each that the template can write; returns how many."""
    rendered = []
    for conversation in conversations:
        try:
            rendered.append(codec.render(conversation))
        except TemplateError:
            continue
    literal = [Rendered(Outline(one.segments, literal=True), ()) for one in rendered]
    for everything in (False, True):
        planned = codec._encode(rendered, everything=everything)
        spoken = Encoder(codec._tokens).encode(literal, everything=everything)
        assert [whole(one) for one in planned] == [whole(one) for one in spoken]
    return len(rendered)


def talks() -> list[Conversation]:
    """The probes, hostile ones, words of white space and marks; what users say is learned in every third."""
    found = [probe.conversation for probe in (*probes(), *hostile("<|im_end|>"))]
    found += [
        Conversation((message("system", one), message("user", two), message("assistant", "x" + one)))
        for one in WORDS
        for two in WORDS
    ]
    learned = [replace(one, messages=tuple(replace(said, train=True) for said in one.messages)) for one in found[::3]]
    return found + learned


@pytest.mark.parametrize("name", ["llama2", "llama3", "qwen3", "glm4", "deepseek", "default"])
def test_a_plan_gives_what_the_words_themselves_give(name: str):
    row = rows()[name]
    codec = build_codec(ChatConfig(template=name), stand_in_tokenizer(row.bos, row.eos, tokens_of(row)))
    assert check(codec, talks()) > 100


def test_white_space_that_a_control_token_swallows():
    row = rows()["qwen"]
    tokenizer = stand_in_tokenizer(row.bos, row.eos, tokens_of(row))
    greedy = [AddedToken(token, lstrip=True, rstrip=True, special=True) for token in tokens_of(row)]
    tokenizer.add_tokens(greedy, special_tokens=True)
    codec = build_codec(ChatConfig(template="qwen"), tokenizer)
    kept, bare = (codec.encode([Conversation((message("user", said), message("assistant", "b")))])[0] for said in ("a \n", "a"))
    assert kept.ids.tolist() == bare.ids.tolist()
    assert check(codec, talks()) > 100


def test_a_tokenizer_s_own_template_is_planned_too():
    tokenizer = stand_in_tokenizer("", "<|im_end|>", ["<|im_start|>", "<|im_end|>"])
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    assert check(build_codec(ChatConfig(), tokenizer), talks()[::4]) > 20
